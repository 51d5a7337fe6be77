"""The parameters of a node, from the models that check them: what ROS has to know of each, and back.

A ROS parameter has a type and cannot be absent: an empty text, or 0, stands for a setting that is not given, and so
does an empty text in a list, which must not be empty itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from avcompress.frozen import Model
from avcompress.spec import RecipeError
from avcompress.yaml_file import complaint
from ros_nodes.connection import Connection, image_topics
from ros_nodes.core.settings import Settings

Value = bool | int | float | str | list[str]
Kind = Literal["bool", "integer", "double", "string", "string_array"]

FIXED = frozenset({"keys", "allow_unsigned", "bundle_name", "min_revision", "camera_qos", "result_qos", "autostart"})
"""Said when a node starts: whom it trusts, which nobody may change over the network, and what ROS itself keeps."""
LIVE = frozenset({"bundle"})
"""What may change while the node serves: another bundle is swapped in between two frames."""

# ROS wants both ends of a range.
_LARGEST = {"integer": 2**31 - 1, "double": 1e9}
_EMPTY: dict[Kind, Value] = {"integer": 0, "double": 0.0, "string": "", "string_array": [""]}
_KINDS: dict[Any, Kind] = {bool: "bool", int: "integer", float: "double", str: "string"}


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        default: empty, or 0, where nothing is the default.
        range: lowest and highest value of a number; both belong to it. What is 0 for nothing goes down to 0.
        choices: of a text; empty where it is free.
        optional: whether an empty value stands for none.
        read_only: whether it can only be given when the node starts.
    """

    name: str
    kind: Kind
    default: Value
    description: str
    range: tuple[float, float] | None
    choices: tuple[str, ...]
    optional: bool
    read_only: bool


def parameters() -> tuple[Parameter, ...]:
    """All of them, in the order of the models; `camera_qos.depth` is the field `depth` of the field `camera_qos`."""
    return tuple(p for model in (Settings, Connection) for p in _of_model(model, ""))


def _of_model(model: type[Model], prefix: str, given: Mapping[str, Any] | None = None) -> Iterator[Parameter]:
    for name, field in model.model_fields.items():
        default = field.default if given is None else given[name]
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Model):
            yield from _of_model(annotation, f"{prefix}{name}.", dict(default))
        else:
            yield _of_field(prefix + name, field, default)


def _of_field(name: str, field: FieldInfo, default: Any) -> Parameter:
    inner, metadata, optional = _peel(field.annotation, list(field.metadata))
    kind, choices = _kind(inner)
    # A required text has no value yet: the node cannot be configured without.
    value = _EMPTY[kind] if default is None or field.is_required() else _as_parameter(default)
    return Parameter(
        name=name,
        kind=kind,
        default=value,
        description=f"{field.description or ''}{_note(kind, choices, optional)}",
        range=_range(kind, metadata, optional),
        choices=choices,
        optional=optional or field.is_required(),
        read_only=name.partition(".")[0] in FIXED,
    )


def _peel(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any], bool]:
    """The type itself, what is said of it, and whether it may be None."""
    optional = False
    while get_origin(annotation) in {Annotated, Union, UnionType}:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata = [*metadata, *more]
        else:
            (annotation,) = [inner for inner in get_args(annotation) if inner is not NoneType]
            optional = True
    return annotation, metadata, optional


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    if get_origin(annotation) is Literal:
        return "string", get_args(annotation)
    if get_origin(annotation) is tuple:
        return "string_array", ()
    return _KINDS[annotation], ()


def _as_parameter(value: Any) -> Value:
    if isinstance(value, tuple):
        return list(value) or [""]
    checked: Value = value
    return checked


def _note(kind: Kind, choices: tuple[str, ...], optional: bool) -> str:
    if choices:
        return f"; one of {', '.join(choices)}"
    return f"; {'0' if kind in _LARGEST else 'empty'}: not given" if optional else ""


def _range(kind: Kind, metadata: list[Any], optional: bool) -> tuple[float, float] | None:
    if kind not in _LARGEST:
        return None
    # Every number of ours is at least 0; a double that must be above is refused at 0 by its model.
    above_zero = kind == "integer" and any(getattr(constraint, "gt", None) == 0 for constraint in metadata)
    limits = [constraint.le for constraint in metadata if getattr(constraint, "le", None) is not None]
    return (1 if above_zero and not optional else 0, min([_LARGEST[kind], *limits]))


# --- and back


@dataclass(frozen=True)
class Told:
    """What a node on a transport is told."""

    settings: Settings
    connection: Connection


def told(values: Mapping[str, Value]) -> Told:
    """What parameters say; raises RecipeError, in one line, for the first that is wrong."""
    given = {parameter.name: values[parameter.name] for parameter in parameters() if _is_given(parameter, values)}
    try:
        settings = Settings.model_validate(_nested(given, Settings))
        connection = Connection.model_validate(_nested(given, Connection))
        image_topics(connection, "node", settings.cameras)
    except ValidationError as error:
        raise RecipeError(_line(error)) from None
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return Told(settings, connection)


def check(values: Mapping[str, Value]) -> None:
    """Raise RecipeError, in one line, for the first that is wrong; a bundle may be named later."""
    told({**values, "bundle": values.get("bundle") or "later"})


def _is_given(parameter: Parameter, values: Mapping[str, Value]) -> bool:
    if parameter.name not in values:
        return False
    return not (parameter.optional and values[parameter.name] == _EMPTY.get(parameter.kind))


def _nested(given: Mapping[str, Value], model: type[Model]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        outer, _, inner = name.partition(".")
        if outer in model.model_fields:
            plain = [text for text in value if text] if isinstance(value, list) else value
            found = {**found, outer: {**found.get(outer, {}), inner: plain} if inner else plain}
    return found


def _line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    if first["type"] == "missing":
        return f"{name}: expected a value, got none; set the parameter"
    return f"{name}: {complaint(first)}" if name else complaint(first)


def refusal(name: str, configured: bool) -> str:
    """Why a parameter cannot change now; empty where it can."""
    if name in LIVE or not configured:
        return ""
    return f"{name}: expected a node that is not configured; clean it up first, and configure it again"
