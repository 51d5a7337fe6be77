"""ROS messages as types of Cyclone DDS; on the wire we send bytes that are encoded already."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from ros_nodes.wire.library import require_cyclonedds
from ros_nodes.wire.names import type_name

if TYPE_CHECKING:
    from cyclonedds.idl import IdlStruct
    from rosbags.typesys.store import Typestore


class Encoded(Protocol):
    """A message as CDR, with its four bytes of header."""

    data: bytes

    def __init__(self, data: bytes) -> None: ...


@cache
def encoded_type(message: str, store: Typestore) -> type[Encoded]:
    """The type of a message's topic, whose values are bytes: Cyclone's own encoder takes a uint8[] as a list of ints.

    Raises MissingError without `cyclonedds`.
    """
    require_cyclonedds()
    from cyclonedds.idl import make_idl_struct

    name = type_name(message)
    # Not a base class: Cyclone takes bases for types of their own.
    fields = {**_header(message), **_fields(message, store)}
    made: Any = make_idl_struct(name.rpartition("::")[2], name, fields, dataclassify=False)
    made.__init__, made.serialize = _init, _serialize
    deserialize: Any = _deserialize
    # By its key alone a reader is told that a publisher is gone.
    made.deserialize = made.deserialize_key = classmethod(deserialize)
    typed: type[Encoded] = made
    return typed


def _init(self: Encoded, data: bytes) -> None:
    self.data = data


def _serialize(self: Encoded, *_: object, **__: object) -> bytes:
    return self.data


def _deserialize(kind: type[Encoded], data: bytes, *_: object, **__: object) -> Encoded:
    return kind(data)


@cache
def idl_type(message: str, store: Typestore) -> type[IdlStruct]:
    """The type whose values have the message's fields, as Cyclone encodes them; for nested ones, and as a reference."""
    require_cyclonedds()
    from cyclonedds.idl import make_idl_struct

    name = type_name(message)
    made: type[IdlStruct] = make_idl_struct(name.rpartition("::")[2], name, _fields(message, store))
    return made


def _header(message: str) -> dict[str, Any]:
    """What rmw_cyclonedds puts before requests and replies: Cyclone looks whether bytes are of their type."""
    from cyclonedds.idl import types

    return {"guid": types.uint64, "sequence": types.int64} if "/srv/" in message else {}


def _fields(message: str, store: Typestore) -> dict[str, Any]:
    return {field: _field(description, store) for field, description in store.fielddefs[message][1]}


def _field(description: Any, store: Typestore) -> Any:
    from cyclonedds.idl.types import array, bounded_str, sequence
    from rosbags.interfaces import Nodetype

    kind, what = Nodetype(description[0]), description[1]
    match kind:
        case Nodetype.NAME:
            return idl_type(what, store)
        case Nodetype.ARRAY:
            return array[_field(what[0], store), what[1]]
        case Nodetype.SEQUENCE:
            element, limit = _field(what[0], store), what[1]
            return sequence[element, limit] if limit else sequence[element]
        case _:
            name, limit = what
            return bounded_str[limit] if limit else _base()[name]


@cache
def _base() -> Mapping[str, Any]:
    from cyclonedds.idl import types

    numbers = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
    # A ROS `byte` and `char` are octets; Cyclone's own of these names are of other sizes, or signed.
    octets = dict.fromkeys(("byte", "octet", "char"), types.uint8)
    return {"string": str, "bool": bool, **octets, **{name: getattr(types, name) for name in numbers}}
