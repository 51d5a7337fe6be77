"""One layer of an engine, in one form for every version of TensorRT that tells it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

PRECISIONS = {"Int8": "int8", "Half": "fp16", "Float": "fp32", "BFloat16": "bf16", "FP8": "fp8"}
UNKNOWN = "unknown"
_BYTES = {"Bool": 1, "FP8": 1, "Int8": 1, "UInt8": 1, "BFloat16": 2, "Half": 2, "Float": 4, "Int32": 4, "Int64": 8}
_TYPES = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16"} | {
    name.lower(): name for name in (*_BYTES, "FP4", "Int4", "UInt32", "UInt64", "Int16", "UInt16", "Double")
}
_WORD = re.compile(r"\w+")
_NODE = re.compile(r"\[ONNX Layer: (.*)\]")
# TensorRT 8.6 separates the nodes by \x1e, 10 and RTX by \x1f; what passed through a terminal has lost them.
_SEPARATORS = re.compile(r"[\x1d-\x1f]|(?<=\])(?=\[ONNX Layer: )")


@dataclass(frozen=True)
class BuilderLayer:
    """One layer of an engine: its kind, the data types of what it reads and writes, the ONNX nodes it came from.

    Attributes:
        inputs, constants, outputs: data types as TensorRT calls them, `Int8`, `Half`, ...; "" where it does not say.
        tactic: the kernel, where it has a name.
        origin: of a Reformat: QDQ for what the network's own Q/DQ became.
        moved_bytes: read and written by one run, constants among them; None where shapes or types are not told.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    tactic: str = ""
    origin: str = ""
    moved_bytes: int | None = None


@dataclass(frozen=True)
class Tensor:
    """What a layer reads or writes: its data type, "" if not told, and its shape; () may be a scalar or not told."""

    type: str
    shape: tuple[int, ...] = ()


def data_type(text: str) -> str:
    """The data type in `Int8`, `Half`, or `Thirty-two wide channel vectorized row major Int8 format`; "" if unclear."""
    found = {_TYPES[word] for word in _WORD.findall(text.lower()) if word in _TYPES}
    return found.pop() if len(found) == 1 else ""


def moved_bytes(tensors: Iterable[Tensor]) -> int | None:
    """The size of some tensors together; None where one has an unknown type or a dimension that is not static."""
    total = 0
    for tensor in tensors:
        if tensor.type not in _BYTES or not tensor.shape or min(tensor.shape) < 0:
            return None
        total += _BYTES[tensor.type] * math.prod(tensor.shape)
    return total


def metadata_nodes(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes that a layer's metadata names."""
    parts = (_NODE.fullmatch(part.strip()) for part in _SEPARATORS.split(metadata))
    return tuple(part[1] for part in parts if part)
