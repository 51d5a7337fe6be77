"""What a node's topics are called, on every transport."""

from __future__ import annotations

from dataclasses import dataclass

DIAGNOSTICS = "/diagnostics"


@dataclass(frozen=True)
class Topics:
    """The topics of a node: relative names begin with its own.

    Attributes:
        node: its name.
        kind: what it publishes: detection, or segmentation.
    """

    node: str
    kind: str

    def results(self, camera: str) -> str:
        """Boxes, or masks, of one camera."""
        return f"/{self.node}/{camera}/{'detections' if self.kind == 'detection' else 'mask'}"

    def overlay(self, camera: str) -> str:
        """Pictures of one camera with its results drawn in, for people."""
        return f"/{self.node}/{camera}/overlay"

    @property
    def label_info(self) -> str:
        """The names of the classes."""
        return f"/{self.node}/label_info"

    @property
    def vision_info(self) -> str:
        """The network and its revision."""
        return f"/{self.node}/vision_info"

    def debug(self, name: str) -> str:
        """Milliseconds, such as processing_time_ms; named as Autoware's nodes do."""
        return f"/{self.node}/debug/{name}"


def image_type(topic: str) -> str:
    """The message that a camera's topic carries: image_transport puts JPEG and PNG on `.../compressed`."""
    return "sensor_msgs/msg/CompressedImage" if topic.endswith("/compressed") else "sensor_msgs/msg/Image"
