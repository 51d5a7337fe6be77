"""Names of nodes, cameras and topics, as ROS 2 takes them; what is none is told in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

_CAMERA = r"[A-Za-z][A-Za-z0-9_]*"
_NODE = r"[A-Za-z_][A-Za-z0-9_]*"
_TOPIC = rf"(/{_NODE})+"


def _check(pattern: str, wanted: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {wanted}, got {text!r}; give another one")
        return text

    return check


_camera = _check(_CAMERA, "a name of letters, digits and underscores that begins with a letter, such as front")
_topic = _check(_TOPIC, "a topic such as /front/image_raw, of letters, digits and underscores")
node_name = _check(_NODE, "a name of letters, digits and underscores, such as vision")
"""The name of a node; raises ValueError for what is none. Source: rmw_validate_node_name."""

CameraName = Annotated[str, AfterValidator(_camera), WithJsonSchema({"type": "string", "pattern": f"^{_CAMERA}$"})]
NodeName = Annotated[str, AfterValidator(node_name), WithJsonSchema({"type": "string", "pattern": f"^{_NODE}$"})]
TopicName = Annotated[str, AfterValidator(_topic), WithJsonSchema({"type": "string", "pattern": f"^{_TOPIC}$"})]
