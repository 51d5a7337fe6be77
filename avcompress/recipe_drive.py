"""What a recipe says of frames from a recorded drive."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from avcompress.frozen import Model


class RosbagSource(Model):
    """Frames of one camera from a recorded drive, a rosbag2 in MCAP or SQLite, without labels; needs no ROS.

    Of the frames in the range, at the rate, those that differ from the one before are told apart by brightness and by
    content, and `count` of them are taken from all of these groups, spread over the drive.
    """

    format: Literal["rosbag"]
    bag: str = Field(description="the bag's folder, the one with metadata.yaml; or a single .mcap or .db3 file")
    topic: str | None = Field(
        None, description="of sensor_msgs/Image or CompressedImage; default: the bag's only one with images"
    )
    start_s: NonNegativeFloat = Field(0.0, description="what is earlier is left out, in seconds of the recording")
    end_s: PositiveFloat | None = Field(None, description="what is later is left out; default: to the recording's end")
    rate_hz: PositiveFloat | None = Field(2.0, description="at most so many frames a second are looked at; null: all")
    distinct: Annotated[float, Field(ge=0, le=255)] = Field(
        2.0,
        description="a frame whose grey levels, 0-255, on 32x32 pixels, differ by less on average from the frame taken "
        "before it is its duplicate; 0 keeps all",
    )
    count: PositiveInt = Field(128, description="frames that are taken; all where there are fewer")
    seed: NonNegativeInt = Field(0, description="another seed takes other frames of the same groups")
    on_bad_image: Literal["fail", "skip"] = Field("fail", description="what an undecodable image does to the run")

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> RosbagSource:
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"expected end_s after start_s, got {self.start_s:g} to {self.end_s:g}; mend them")
        return self
