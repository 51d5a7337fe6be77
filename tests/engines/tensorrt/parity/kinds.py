"""What an expression may be, as far as TensorRT is concerned."""

import ast
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Module:
    """`tensorrt` or `tensorrt_rtx`."""


@dataclass(frozen=True)
class Class:
    """A class of TensorRT's, by its path in the module."""

    path: str


@dataclass(frozen=True)
class Thing:
    """An instance of a class of TensorRT's."""

    path: str


@dataclass(frozen=True)
class Method:
    """What can be called: a function or method of TensorRT's; `bound` when its first argument is in place."""

    path: str
    bound: bool


@dataclass(frozen=True)
class Many:
    """Something to iterate over."""

    each: object


@dataclass(frozen=True)
class Row:
    """A tuple, part by part."""

    parts: tuple


@dataclass(frozen=True)
class Ours:
    """An instance of a class of the code that is read; `base` is the class of TensorRT's that it derives from."""

    name: str
    base: str = ""


@dataclass(frozen=True)
class OursMethod:
    """A method of such an instance."""

    owner: Ours
    name: str


@dataclass(frozen=True)
class Known:
    """A constant: True, False or None."""

    value: object


@dataclass(frozen=True)
class Lost:
    """Came from TensorRT, and cannot be told what it is."""

    origin: str


@dataclass
class Function:
    """A function that is read, with what it sees from outside."""

    node: ast.FunctionDef = field(repr=False)
    file: str
    outer: dict = field(default_factory=dict, repr=False)


def join(*kinds):
    """What a value is that is one or the other: TensorRT's before what is no matter."""
    told = [kind for kind in kinds if kind is not None]
    weighty = [kind for kind in told if not isinstance(kind, Known)]
    if weighty:
        return min(weighty, key=lambda kind: isinstance(kind, Lost))
    return told[0] if len(told) == len(kinds) and len(set(told)) == 1 else None


def matters(kind):
    """Whether it holds anything of TensorRT's."""
    match kind:
        case Many(each):
            return matters(each)
        case Row(parts):
            return any(map(matters, parts))
    return isinstance(kind, Module | Class | Thing | Method | Lost)
