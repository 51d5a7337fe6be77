"""What a node of ROS is told beside what it serves: its topics, their quality of service, and pictures.

Its name and namespace it has from ROS itself; ros_nodes.wiring is for nodes that give themselves one.
"""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from avcompress.frozen import Model
from ros_nodes.qos import CAMERA, RESULT, Qos, Wanted


class Connection(Model):
    """Topics, their quality of service, and how the node begins."""

    image_topics: tuple[str, ...] = Field(
        (),
        description="one a camera, in their order; on `.../compressed` come JPEG and PNG files; "
        "default: NODE/CAMERA/image",
    )
    camera_qos: Wanted = Field(CAMERA, description="what images are wanted with")
    result_qos: Qos = Field(RESULT, description="what results are offered with")
    autostart: bool = Field(False, description="configure and activate at the start, unasked")
    overlay_every_ms: NonNegativeFloat = Field(
        0.0, description="between two pictures of a camera with its results drawn in, for people; 0: none"
    )


def image_topics(connection: Connection, node: str, cameras: tuple[str, ...]) -> dict[str, str]:
    """The topic of every camera; raises ValueError where there are more or fewer than cameras."""
    if not connection.image_topics:
        return {camera: f"/{node}/{camera}/image" for camera in cameras}
    if len(connection.image_topics) != len(cameras):
        raise ValueError(
            f"image_topics: expected {len(cameras)}, one a camera, got {len(connection.image_topics)}; name them in "
            "the order of `cameras`"
        )
    return dict(zip(cameras, connection.image_topics, strict=True))
