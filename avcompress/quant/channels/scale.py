"""Per-channel factors in a float ONNX graph: folded into a layer, or multiplied explicitly before one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from avcompress.spec import Array
from engines.norm_statistics import read_statistics, write_statistics_
from engines.onnx_graph import (
    Edge,
    attribute,
    check,
    copy,
    drop_unused_initializers,
    fresh,
    infer_shapes,
    initializers,
    set_nodes_,
    use_counts,
)

Floats = NDArray[np.float64]


# --- weights as (groups, outputs, inputs, kernel)


def by_group(node: onnx.NodeProto, weight: Array) -> Array:
    """The weight of a Conv, ConvTranspose, Gemm or MatMul as (groups, outputs a group, inputs a group, kernel)."""
    groups = int(str(attribute(node, "group", 1)))
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped if _outputs_first(node) else grouped.swapaxes(1, 2)


def _outputs_first(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" or bool(attribute(node, "transB", 0))


def _from_groups(node: onnx.NodeProto, grouped: Array, shape: Sequence[int]) -> Array:
    return (grouped if _outputs_first(node) else grouped.swapaxes(1, 2)).reshape(shape)


def scale_inputs(node: onnx.NodeProto, weight: Array, factor: Array) -> Array:
    """The weight times a factor for each input channel."""
    grouped = by_group(node, weight)
    return _from_groups(node, grouped * factor.reshape(len(grouped), 1, -1, 1), weight.shape)


def scale_outputs(node: onnx.NodeProto, weight: Array, factor: Array) -> Array:
    """The weight times a factor for each output channel."""
    grouped = by_group(node, weight)
    return _from_groups(node, grouped * factor.reshape(len(grouped), -1, 1, 1), weight.shape)


def response(node: onnx.NodeProto, weight: Array, inputs: Array) -> Floats:
    """What each output channel gives where every input channel has one value throughout, without padding and bias."""
    grouped = by_group(node, weight).astype(np.float64)
    given: Floats = (grouped.sum(axis=3) @ np.asarray(inputs, np.float64).reshape(len(grouped), -1, 1)).reshape(-1)
    return given


def per_channel(node: onnx.NodeProto, weight: Array, factor: Array) -> Array:
    """Factors (C,) in a shape that broadcasts to a weighted node's data: channels on axis 1 of images, else last."""
    return factor.reshape(1, -1, *[1] * (weight.ndim - 2)) if node.op_type.startswith("Conv") else factor


# --- changing a graph


class Editor:
    """A copy of a model whose operands are being changed; `model` gives the result."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = copy(model)
        self.nodes = {node.name: node for node in self._model.graph.node}
        self.constants = initializers(self._model)
        self._uses = use_counts(self._model)
        self._taken = {*self._uses, *self.nodes, *self.constants, *(o for n in self.nodes.values() for o in n.output)}
        self._before: dict[str, list[onnx.NodeProto]] = {}

    def constant(self, node: onnx.NodeProto, index: int) -> Array:
        """A constant input of a node; a bias that is left out is 0."""
        name = node.input[index] if index < len(node.input) else ""
        return numpy_helper.to_array(self.constants[name]) if name else np.zeros(1, np.float32)

    def set_operand_(self, node: onnx.NodeProto, index: int, values: Array, name: str = "constant") -> None:
        """Give a node another constant input; its name stays where no other node reads the old one."""
        while len(node.input) <= index:
            node.input.append("")
        old = node.input[index]
        dtype = numpy_helper.to_array(self.constants[old]).dtype if old else np.float32
        tensor = numpy_helper.from_array(np.ascontiguousarray(values, dtype), old)
        if old and self._uses[old] == 1:
            self.constants[old].CopyFrom(tensor)
            return
        # Patterns in recipes name weights: a copy is called like what it was made from.
        tensor.name = node.input[index] = fresh(old or f"{node.name}.{name}", self._taken)
        self._uses[old] -= 1
        self._uses[tensor.name] = 1
        self._model.graph.initializer.append(tensor)
        self.constants[tensor.name] = self._model.graph.initializer[-1]

    def divide_outputs_(self, node: onnx.NodeProto, scale: Array) -> None:
        """Divide the output channels of a weighted or batch-norm node by a scale."""
        if node.op_type == "BatchNormalization":
            for index in (1, 2):
                self.set_operand_(node, index, self.constant(node, index) / scale)
            return
        self.set_operand_(node, 1, scale_outputs(node, self.constant(node, 1), 1 / scale))
        if len(node.input) > 2 and node.input[2]:
            self.set_operand_(node, 2, self.constant(node, 2) / scale)
        statistics = read_statistics(node)
        if statistics is not None:
            write_statistics_(node, statistics.mean / scale, statistics.std / scale)

    def shift_outputs_(self, node: onnx.NodeProto, shift: Array) -> None:
        """Add a value to each output channel of a node with a bias: Conv, ConvTranspose or Gemm."""
        self.add_to_bias_(node, shift)
        statistics = read_statistics(node)
        if statistics is not None:
            write_statistics_(node, statistics.mean + shift, statistics.std)

    def add_to_bias_(self, node: onnx.NodeProto, shift: Array) -> None:
        """The same where it gives back what was taken elsewhere: the outputs keep their distribution."""
        beta = float(str(attribute(node, "beta", 1.0)))
        self.set_operand_(node, 2, self.constant(node, 2) + shift / beta, "bias")

    def multiply_inputs_(self, node: onnx.NodeProto, scale: Array) -> None:
        """Multiply what a weighted node does with each input channel by a scale."""
        self.set_operand_(node, 1, scale_inputs(node, self.constant(node, 1), scale))

    def insert_mul_(self, tensor: str, factor: Array, edges: Iterable[Edge]) -> str:
        """Let some uses of a tensor read its product with a constant, computed just before the first of them."""
        return self._insert_("Mul", tensor, factor, edges, ("channel_scale", "scaled"))

    def insert_sub_(self, tensor: str, subtrahend: Array, edges: Iterable[Edge]) -> str:
        """Let some uses of a tensor read what a constant leaves of it, computed just before the first of them."""
        return self._insert_("Sub", tensor, subtrahend, edges, ("middle", "shifted"))

    def _insert_(self, kind: str, tensor: str, values: Array, edges: Iterable[Edge], called: tuple[str, str]) -> str:
        """The name of the new tensor; `called`: what the constant's and its own name end in."""
        chosen = dict(edges)
        first = next(name for name in self.nodes if name in chosen)
        constant, result, name = (fresh(f"{tensor}_{s}", self._taken) for s in (*called, kind))
        operand = numpy_helper.from_array(np.asarray(values, np.float32, order="C"), constant)
        self._model.graph.initializer.append(operand)
        node = helper.make_node(kind, [tensor, constant], [result], name)
        self._before.setdefault(first, []).append(node)
        for edge, index in chosen.items():
            self.nodes[edge].input[index] = result
        return result

    @property
    def model(self) -> onnx.ModelProto:
        """The changed model, checked, its shapes stated."""
        new = copy(self._model)
        set_nodes_(new, [n for node in new.graph.node for n in (*self._before.get(node.name, ()), node)])
        return check(infer_shapes(drop_unused_initializers(new)))
