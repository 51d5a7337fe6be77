"""The JSON Schema of profile files, for editors."""

from __future__ import annotations

from typing import Any

from engines.profile import Profile


def profile_schema() -> dict[str, Any]:
    """What an editor needs to complete and check a file; a profile that extends another need not be whole."""
    schema = Profile.model_json_schema()
    parts: dict[str, Any] = schema["$defs"]
    # The file's name and the platform's key are the names; platforms are a mapping in a file.
    del schema["properties"]["name"], parts["Platform"]["properties"]["name"], parts["Platform"]["required"]
    schema["properties"]["platforms"] = {
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/Platform"},
        "description": schema["properties"]["platforms"]["description"],
    }
    del parts["Dla"]["required"]
    for each in (schema, *parts.values()):
        each["properties"] = {key: _removable(value) for key, value in each["properties"].items()}
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "the profile that holds where this one is silent",
    }
    required = [name for name in schema.pop("required") if name != "name"]
    schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]
    return schema


def _removable(value: dict[str, Any]) -> dict[str, Any]:
    """The same, or null, which removes what the extended profile says; entries of a mapping, too."""
    inner = value.get("additionalProperties")
    if isinstance(inner, dict):
        value = {**value, "additionalProperties": {"anyOf": [inner, {"type": "null"}]}}
    return {"anyOf": [value, {"type": "null"}]}
