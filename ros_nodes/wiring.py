"""How a node hangs on a vehicle's network, whichever transport it is."""

from __future__ import annotations

from pydantic import Field, model_validator

from avcompress.frozen import Model
from ros_nodes.core.names import CameraName, NodeName, TopicName
from ros_nodes.qos import CAMERA, RESULT, Qos, Wanted


class Wiring(Model):
    """The names of a node and of what it hears, and the quality of service of both directions."""

    node: NodeName = Field("avcompress", description="the node's name, with which its topics begin")
    topics: dict[CameraName, TopicName] = Field(
        min_length=1, description="of images, by camera; `.../compressed` carries sensor_msgs/CompressedImage"
    )
    camera_qos: Wanted = Field(CAMERA, description="that images are wanted with")
    result_qos: Qos = Field(RESULT, description="that results are sent with")

    @model_validator(mode="after")
    def _hears_each_topic_once(self) -> Wiring:
        if len(set(self.topics.values())) != len(self.topics):
            raise ValueError(f"expected topics that differ, got {', '.join(self.topics.values())}; name each once")
        return self
