"""What ROS 2 calls things on DDS. Source: design.ros2.org/articles/topic_and_service_names.html."""

from __future__ import annotations


def topic_name(topic: str) -> str:
    """/front/image_raw -> rt/front/image_raw."""
    return f"rt{topic}"


def request_name(service: str) -> str:
    """/node/get_state -> rq/node/get_stateRequest."""
    return f"rq{service}Request"


def reply_name(service: str) -> str:
    """/node/get_state -> rr/node/get_stateReply."""
    return f"rr{service}Reply"


def type_name(message: str) -> str:
    """sensor_msgs/msg/Image -> sensor_msgs::msg::dds_::Image_."""
    package, kind, name = message.split("/")
    return f"{package}::{kind}::dds_::{name}_"
