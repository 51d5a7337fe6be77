"""What a node on a transport is told beside what it serves: its topics, their quality of service, and pictures."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from avcompress.frozen import Model
from ros_nodes.qos import CAMERA, RESULT, Qos


class Wiring(Model):
    """Topics and their quality of service."""

    image_topics: tuple[str, ...] = Field(
        (),
        description="one a camera, in their order; on `.../compressed` come JPEG and PNG files; "
        "default: NODE/CAMERA/image",
    )
    camera_qos: Qos = Field(CAMERA, description="what images are wanted with")
    result_qos: Qos = Field(RESULT, description="what results are offered with")
    autostart: bool = Field(False, description="configure and activate at the start, unasked")
    overlay_every_ms: NonNegativeFloat = Field(
        0.0, description="between two pictures of a camera with its results drawn in, for people; 0: none"
    )


def image_topics(wiring: Wiring, node: str, cameras: tuple[str, ...]) -> dict[str, str]:
    """The topic of every camera; raises ValueError where there are more or fewer than cameras."""
    if not wiring.image_topics:
        return {camera: f"/{node}/{camera}/image" for camera in cameras}
    if len(wiring.image_topics) != len(cameras):
        raise ValueError(
            f"image_topics: expected {len(cameras)}, one a camera, got {len(wiring.image_topics)}; name them in the "
            "order of `cameras`"
        )
    return dict(zip(cameras, wiring.image_topics, strict=True))
