"""What the lowering of one ONNX node sees and returns: operands with static shapes in, one call of a function out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor

from avcompress.spec import Array, ModelError

DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True, eq=False)
class Operand:
    """One tensor of the graph.

    Attributes:
        name: in the ONNX graph.
        meta: a tensor of the same shape and dtype without values.
        value: of a constant.
        many: the same as `meta` for several images; None where it is for one image alone.
    """

    name: str
    meta: Tensor
    value: Array | None = None
    many: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The static shape."""
        return tuple(self.meta.shape)

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return self.meta.dim()


@dataclass(frozen=True)
class Call:
    """The function that a node becomes; the Operands among its arguments are filled in by the builder."""

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One node with its operands; None where an optional input is left out."""

    proto: onnx.NodeProto
    inputs: tuple[Operand | None, ...]
    opset: int

    @property
    def kind(self) -> str:
        """The operator type."""
        return str(self.proto.op_type)

    @property
    def x(self) -> Operand:
        """The first input."""
        return self.required(0)

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or the default; text as str."""
        for item in self.proto.attribute:
            if item.name == name:
                value = helper.get_attribute_value(item)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def required(self, index: int) -> Operand:
        """An input that has to be there."""
        operand = self.optional(index)
        if operand is None:
            raise self.error(f"an input {index}", "none", "export the model again")
        return operand

    def optional(self, index: int) -> Operand | None:
        """An input that may be left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> Array | None:
        """The value of an input that has to be constant; None where it is left out."""
        operand = self.optional(index)
        if operand is not None and operand.value is None:
            raise self.error(
                f"a constant input {index} ({operand.name!r})", "a computed one", "export it with static shapes"
            )
        return None if operand is None else operand.value

    def integers(self, index: int, name: str = "") -> list[int] | None:
        """A list of integers given as an input, or in older opsets as an attribute; None where both are left out."""
        given = self.attribute(name) if name else None
        if given is not None:
            return [int(v) for v in given]
        value = self.constant(index)
        return None if value is None else [int(v) for v in value.reshape(-1)]

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, counted from the front."""
        axis, rank = int(self.attribute("axis", default)), self.x.rank if rank is None else rank
        if not -rank <= axis < max(rank, 1):
            raise self.error(f"an axis of {rank} dimensions", str(axis), "export the model again")
        return axis % max(rank, 1)

    def error(self, expected: str, got: str, remedy: str) -> ModelError:
        """The one line that names this node."""
        return ModelError(f"node {self.proto.name!r} ({self.kind}): expected {expected}, got {got}; {remedy}")


def normalized(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front."""
    return tuple(axis % rank for axis in axes)
