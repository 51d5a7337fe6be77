"""The option by which commands are told which cameras there are, and on which topics."""

from __future__ import annotations

import re
from collections.abc import Iterable

from avcompress.spec import RecipeError


def camera_topics(cameras: list[str]) -> dict[str, str]:
    """NAME=/TOPIC, once a camera; raises RecipeError for anything else. Source: CameraName, ros_nodes.core.names."""
    topics = dict(each.partition("=")[::2] for each in cameras)
    for name, topic in topics.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or not topic.startswith("/"):
            raise RecipeError(f"--camera: expected NAME=/TOPIC, got {name}={topic}; such as front=/front/image_raw")
    if len(topics) != len(cameras) or len(set(topics.values())) != len(topics):
        raise RecipeError("--camera: expected names and topics that differ, got one twice; name each camera once")
    return topics


def check_node(name: str) -> None:
    """Raise RecipeError for what is no name of a node."""
    from ros_nodes.core.names import node_name

    try:
        node_name(name)
    except ValueError as error:
        raise RecipeError(f"--node: {error}") from None


def named_after(topics: Iterable[str]) -> dict[str, str]:
    """Topics by names of their own: /front/image_raw is front_image_raw; raises RecipeError where two have one name."""
    named: dict[str, str] = {}
    for topic in topics:
        name = _name(topic)
        if name in named:
            raise RecipeError(
                f"--camera: expected topics whose names differ, got {named[name]} and {topic}, both {name}; "
                f"name them: --camera NAME={topic}"
            )
        named[name] = topic
    return named


def _name(topic: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", topic).strip("_")
    return name if name[:1].isalpha() else f"camera_{name}"
