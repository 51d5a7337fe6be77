"""The option by which commands are told which cameras there are, and on which topics."""

from __future__ import annotations

import re

from avcompress.spec import RecipeError


def camera_topics(cameras: list[str]) -> dict[str, str]:
    """NAME=/TOPIC, once a camera; raises RecipeError for anything else."""
    topics = dict(each.partition("=")[::2] for each in cameras)
    for name, topic in topics.items():
        if not re.fullmatch(r"[A-Za-z]\w*", name) or not topic.startswith("/"):
            raise RecipeError(f"--camera: expected NAME=/TOPIC, got {name}={topic}; such as front=/front/image_raw")
    if len(topics) != len(cameras) or len(set(topics.values())) != len(topics):
        raise RecipeError("--camera: expected names and topics that differ, got one twice; name each camera once")
    return topics
