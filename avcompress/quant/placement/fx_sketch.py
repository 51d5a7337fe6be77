"""The GraphView of an fx graph while it is drawn."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from avcompress.quant.placement.view import Op, Weight
from avcompress.quant.tracing import FAKE

Names = str | tuple[str, ...]
_ONNX_TYPES = {torch.float16: "FLOAT16", torch.bfloat16: "BFLOAT16", torch.float64: "DOUBLE", torch.int8: "INT8"}


def op_name(node: fx.Node) -> str:
    """What the view calls the operator of an fx node: the ONNX node that it was imported from, or its own name."""
    return str(node.meta["onnx"][0]) if "onnx" in node.meta else node.name


def tensor_name(node: fx.Node) -> str:
    """What the view calls the tensor of an fx node: the ONNX tensor that it was imported from, or its own name."""
    return str(node.meta["onnx"][1][0]) if "onnx" in node.meta else node.name


@dataclass(frozen=True)
class Constant:
    """A parameter of a module, by its path."""

    name: str
    value: Tensor


@dataclass(frozen=True)
class Layer:
    """What is particular to a weighted operator.

    Attributes:
        weight: its constant weight, or the fx node of a computed one.
        axis: the output channels.
        channels: in and out, of all groups.
    """

    weight: Any
    axis: int
    channels: tuple[int, int]
    groups: int = 1
    kernel: tuple[int, ...] = ()


def is_tensor(item: Any) -> bool:
    """Whether this is an fx node that gives one tensor."""
    return isinstance(item, fx.Node) and isinstance(item.meta.get(FAKE), Tensor)


class Sketch:
    """What has been described so far.

    Attributes:
        ops: by the name of their first output.
        names: the tensor, or tensors, of an fx node that has been described.
        constants: names of tensors.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.ops: dict[str, Op] = {}
        self.names: dict[fx.Node, Any] = {}
        self.constants: set[str] = set()
        self.values: dict[str, Tensor] = {}

    def add_constant(self, node: fx.Node, name: str) -> None:
        """What an fx node gives is constant."""
        self.names[node] = name
        self.constants.add(name)

    def name_of(self, item: Any) -> str:
        """The tensor of an fx node or a parameter; "" for None. A number becomes a constant of its own."""
        match item:
            case None:
                return ""
            case Constant():
                self.constants.add(item.name)
                return item.name
            case fx.Node() if item in self.names:
                name = self.names[item]
                return str(name[0] if isinstance(name, tuple) else name)
            case _:
                number = f"constant.{len(self.constants)}"
                self.constants.add(number)
                return number

    def names_of(self, items: Any) -> tuple[str, ...]:
        """The tensors of a sequence of arguments, or of one fx node that gives several."""
        if isinstance(items, fx.Node):
            names = self.names[items]
            return names if isinstance(names, tuple) else (names,)
        return tuple(self.name_of(item) for item in items)

    def value_of(self, item: Any) -> Any:
        """The tensor, without values, or the number that an argument stands for."""
        match item:
            case fx.Node():
                return item.meta.get(FAKE)
            case Constant():
                return item.value
            case _:
                return item

    def shape(self, item: Any) -> tuple[int, ...]:
        """The shape of an argument."""
        return tuple(self.value_of(item).shape)

    def add(self, kind: str, inputs: Sequence[Any], name: str, outputs: Sequence[str] = (), moves: bool = False) -> str:
        """Add an operator; its output carries its name unless others are given. Inputs are names, or arguments."""
        named = tuple(item if isinstance(item, str) else self.name_of(item) for item in inputs)
        out = tuple(outputs) or (name,)
        self.ops[out[0]] = Op(name, kind, named, out, moves=moves)
        return out[0]

    def add_weighted(self, kind: str, inputs: Sequence[Any], name: str, output: str, layer: Layer, macs: int) -> None:
        """Add an operator that multiplies and accumulates; `inputs` are data, weight, bias."""
        named = tuple(self.name_of(item) for item in inputs)
        op = Op(name, kind, named, (output,), macs=macs)
        if named[1] in self.constants:
            value = self.value_of(layer.weight)
            op = replace(
                op,
                weight=Weight(named[1], 1, layer.axis),
                obstacle=_obstacle(kind, value),
                depthwise=kind == "Conv" and layer.groups != 1 and value.shape[1] == 1,
                channels=layer.channels,
                groups=layer.groups,
                kernel=layer.kernel,
            )
        self.ops[output] = op

    def part(self, node: fx.Node, index: int) -> str:
        """The name of one of several outputs: that of the fx node that takes it."""
        takers = (user for user in node.users if user.target is operator.getitem and user.args[1] == index)
        return next((tensor_name(user) for user in takers), f"{node.name}.{index}")

    def fold_into_producer(self, node: fx.Node, data: Any, output: str) -> bool:
        """Let the convolution before a normalization give its output, where nothing else reads the convolution."""
        source = data if isinstance(data, fx.Node) else None
        before = self.ops.get(self.name_of(source)) if source is not None else None
        if before is None or source is None or before.kind not in {"Conv", "ConvTranspose"}:
            return False
        if before.weight is None or before.obstacle or list(source.users) != [node]:
            return False
        del self.ops[before.outputs[0]]
        self.ops[output] = replace(before, outputs=(output,))
        return True


def _obstacle(kind: str, weight: Tensor) -> str:
    if weight.dtype != torch.float32:
        return f"weight of type {_ONNX_TYPES.get(weight.dtype, str(weight.dtype))}"
    if kind == "MatMul" and weight.dim() != 2:
        return f"weight of rank {weight.dim()}"
    return ""


def pool_kind(kind: str, shape: tuple[int, ...], window: Sequence[int] | None, axes: Sequence[int] | None) -> str:
    """GlobalAveragePool or GlobalMaxPool where a pooling or reduction covers all positions of each channel."""
    rank = len(shape)
    everything = tuple(window or ()) == shape[2:] or sorted(a % rank for a in axes or ()) == list(range(2, rank))
    is_global = rank > 2 and everything
    return f"Global{_POOLS[kind]}" if is_global else kind


_POOLS = {"AveragePool": "AveragePool", "MaxPool": "MaxPool", "ReduceMean": "AveragePool", "ReduceMax": "MaxPool"}
