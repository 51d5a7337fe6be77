"""The parameters of a node as files: YAML that ROS reads, with comments for people, and JSON Schema for their editors.

`python -m ros_nodes.parameter_files FOLDER` writes both anew.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from avcompress.spec import RecipeError
from engines.session import one_line
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


# --- and back


def read(path: Path, node: str) -> dict[str, Value]:
    """What a file says to the node of a name, as ROS reads it: first what `/**` says, then the node's own section.

    Raises RecipeError for what is no such file, and for a parameter that the node does not have.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: expected a parameter file, got: {one_line(error)}; mend it") from error
    values: dict[str, Any] = {}
    for section in ("/**", node, f"/{node}"):
        values |= _flat(_section(path, tree, section))
    known = [parameter.name for parameter in parameters()]
    unknown = min(set(values).difference(known), default=None)
    if unknown is not None:
        raise RecipeError(f"{path}: {_unknown(unknown, values[unknown], known)}")
    return values


def _unknown(name: str, value: object, known: Iterable[str]) -> str:
    inside = [each.removeprefix(f"{name}.") for each in known if each.startswith(f"{name}.")]
    if inside:
        return f"{name}: expected a mapping of {', '.join(inside)}, got {value!r}; write {name}: {{{inside[0]}: ...}}"
    return f"expected parameters of a node without ROS, got {name}; {YAML_NAME} names all of them"


def _section(path: Path, tree: object, section: str) -> dict[str, Any]:
    found: object = tree
    for name in (section, "ros__parameters"):
        found = found.get(name, {}) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise RecipeError(f"{path}: expected /**: ros__parameters: with parameters below, got something else; mend it")
    return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"camera_qos": {"depth": 5}} -> {"camera_qos.depth": 5}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def write(folder: Path) -> None:
    """Write both files into a folder."""
    (folder / YAML_NAME).write_text(as_yaml(), encoding="utf-8")
    (folder / SCHEMA_NAME).write_text(as_schema(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
