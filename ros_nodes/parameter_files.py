"""The parameters of a node as files: YAML with comments for people, JSON Schema for their editors.

`python -m ros_nodes.parameter_files FOLDER` writes both anew.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from ros_nodes.parameters import Parameter, Value, parameters

YAML_NAME, SCHEMA_NAME = "avcompress.yaml", "parameters.schema.json"
_WIDTH = 118
_HEAD = f"""\
# yaml-language-server: $schema={SCHEMA_NAME}
# Every parameter of the node, with its default. ROS tells 200 from 200.0: write the point. Copy what you change.
/**:
  ros__parameters:
"""
_TYPES: dict[str, dict[str, Any]] = {
    "bool": {"type": "boolean"},
    "integer": {"type": "integer"},
    "double": {"type": "number"},
    "string": {"type": "string"},
    "string_array": {"type": "array", "items": {"type": "string"}, "minItems": 1},
}


def as_yaml() -> str:
    """A parameter file of any node, with every default."""
    lines, outer = [], ""
    for parameter in parameters():
        group, _, inner = parameter.name.rpartition(".")
        indent = " " * (6 if group else 4)
        if group != outer and group:
            lines.append(f"    {group}:")
        outer = group
        note = f"{parameter.description}{' (only at the start)' if parameter.read_only else ''}"
        lines += [f"{indent}# {line}" for line in textwrap.wrap(note, _WIDTH - len(indent))]
        lines.append(f"{indent}{inner}: {_yaml(parameter.default)}")
    return _HEAD + "\n".join(lines) + "\n"


def _yaml(value: Value) -> str:
    # JSON is YAML, and tells 0.0 from 0.
    return json.dumps(value)


_DURATION = {"type": "integer", "minimum": 0, "description": "nanoseconds"}
_POLICIES: dict[str, Any] = {
    "history": {"enum": ["keep_last", "keep_all", "system_default"]},
    "depth": {"type": "integer", "minimum": 0},
    "reliability": {"enum": ["reliable", "best_effort", "best_available", "system_default"]},
    "durability": {"enum": ["volatile", "transient_local", "best_available", "system_default"]},
    "deadline": _DURATION,
    "lifespan": _DURATION,
    "liveliness": {"enum": ["automatic", "manual_by_topic", "best_available", "system_default"]},
    "liveliness_lease_duration": _DURATION,
}
# What every node of ROS has. Source: rclpy, time_source.py, qos_overriding_options.py, qos.py.
_OF_ROS: dict[str, Any] = {
    "use_sim_time": {"type": "boolean", "description": "take the time from /clock", "default": False},
    "qos_overrides": {
        "type": "object",
        "description": "policies by topic, as in /front/image_raw: {subscription: {reliability: reliable}}",
        "additionalProperties": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                side: {"type": "object", "additionalProperties": False, "properties": _POLICIES}
                for side in ("publisher", "subscription")
            },
        },
    },
}


def as_schema() -> str:
    """The JSON Schema of such a file."""
    found: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": dict(_OF_ROS)}
    # The short form of the same.
    found["patternProperties"] = {r"^qos_overrides\.": {"type": ["string", "integer"]}}
    for parameter in parameters():
        group, _, inner = parameter.name.rpartition(".")
        place = found["properties"]
        if group:
            empty = {"type": "object", "additionalProperties": False, "properties": {}}
            place = place.setdefault(group, empty)["properties"]
        place[inner] = _schema(parameter)
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Parameters of avcompress's node",
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"ros__parameters": found},
            "required": ["ros__parameters"],
        },
    }
    return json.dumps(whole, indent=2) + "\n"


def _schema(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {
        **_TYPES[parameter.kind],
        "description": parameter.description,
        "default": parameter.default,
    }
    if parameter.range is not None:
        schema["minimum"], schema["maximum"] = parameter.range
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    return schema


def write(folder: Path) -> None:
    """Write both files into a folder."""
    (folder / YAML_NAME).write_text(as_yaml(), encoding="utf-8")
    (folder / SCHEMA_NAME).write_text(as_schema(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
