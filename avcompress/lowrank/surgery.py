"""Factors in the place of layers: nodes and constants, all other names as they were.

The layer NAME becomes NAME/first, NAME/core ..., NAME/last. The last one makes the tensor that the layer made, and has
its bias and what batch normalization left at it; the tensors between are called after that one in the same way, the
factors after the layer's weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from avcompress.lowrank.forms import FORMS, Factor, Floats, Ranks
from avcompress.lowrank.layers import Layer
from avcompress.patches import Conv, Product
from avcompress.recipe_lowrank import Method
from engines.onnx_graph import (
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


@dataclass(frozen=True, eq=False)
class Factorization:
    """A layer and what it becomes.

    Attributes:
        layer: that is taken apart, as it is in the network.
        method, ranks: by which.
        factors: their product comes near to `layer.weight`, which is times `layer.scale`.
        shift: (M,), what the output lacks in the mean, in the layer's own scale: the bias takes it up; None where it
            does not.
    """

    layer: Layer
    method: Method
    ranks: Ranks
    factors: tuple[Floats, ...]
    shift: Floats | None = None


def apply(network: onnx.ModelProto, factorizations: Iterable[Factorization]) -> onnx.ModelProto:
    """The network with factors in the place of layers; it stays itself where there are none."""
    by_layer = {each.layer.name: each for each in factorizations}
    if not by_layer:
        return network
    new = copy(network)
    editor = _Editor(new)
    nodes: list[onnx.NodeProto] = []
    for node in network.graph.node:
        nodes += editor.taken_apart_(node, by_layer[node.name]) if node.name in by_layer else [node]
    set_nodes_(new, nodes)
    return check(infer_shapes(drop_unused_initializers(new)))


def alone(network: onnx.ModelProto, layer: Layer) -> onnx.ModelProto:
    """A network of this one layer, which reads and gives what it does in the whole network."""
    node = next(node for node in network.graph.node if node.name == layer.name)
    stated = {v.name: v for v in (*network.graph.value_info, *network.graph.input, *network.graph.output)}
    constants = [item for item in network.graph.initializer if item.name in node.input]
    graph = helper.make_graph([node], "layer", [stated[layer.source]], [stated[node.output[0]]], constants)
    single = helper.make_model(graph, opset_imports=network.opset_import, ir_version=network.ir_version)
    return copy(single)


class _Editor:
    """A network under change, and the names that are taken in it."""

    def __init__(self, network: onnx.ModelProto) -> None:
        self.graph = network.graph
        self.constants = initializers(network)
        self.uses = use_counts(network)
        self.names = {node.name for node in network.graph.node}
        self.values = {*self.uses, *self.constants, *(name for node in network.graph.node for name in node.output)}

    def taken_apart_(self, node: onnx.NodeProto, into: Factorization) -> list[onnx.NodeProto]:
        """The nodes that take this one's place; their constants are added to the graph."""
        tensors = [fresh(f"{node.output[0]}/{factor.name}", self.values) for factor in FORMS[into.method][:-1]]
        sources, outputs = [node.input[0], *tensors], [*tensors, node.output[0]]
        made = []
        for number, factor in enumerate(FORMS[into.method]):
            stored = _stored(into, number)
            weight = self._constant(f"{node.input[1]}/{factor.name}", stored)
            new = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
            new.name = fresh(f"{node.name}/{factor.name}", self.names)
            new.input.extend([sources[number], weight])
            new.output.append(outputs[number])
            new.attribute.extend(_attributes(node, into.layer, factor, len(stored) if factor.depthwise else 1))
            made.append(new)
        self._finish_(made[-1], node, into)
        return made

    def _finish_(self, last: onnx.NodeProto, node: onnx.NodeProto, into: Factorization) -> None:
        """Give the last factor the layer's bias, and what else stands at its node."""
        bias = node.input[2] if len(node.input) > 2 else ""
        if into.shift is not None:
            bias = self._shifted_bias(node, bias, into.shift)
        if bias:
            last.input.append(bias)
        if node.op_type == "Gemm":
            kept = [item for item in node.attribute if item.name in {"alpha", "beta"}]
            last.attribute.extend(kept)
        last.metadata_props.extend(node.metadata_props)

    def _shifted_bias(self, node: onnx.NodeProto, bias: str, shift: Floats) -> str:
        factors = [float(str(attribute(node, name, 1.0))) for name in ("alpha", "beta")]
        by = shift * np.float32(factors[0] / factors[1])
        if not bias:
            return self._constant(f"{node.input[1]}/bias", by)
        value = numpy_helper.to_array(self.constants[bias]) + by
        if self.uses[bias] > 1:
            return self._constant(f"{bias}/shifted", value)
        self.constants[bias].CopyFrom(numpy_helper.from_array(value.astype(np.float32), bias))
        return bias

    def _constant(self, name: str, value: NDArray[np.float32]) -> str:
        name = fresh(name, self.values)
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name


def _stored(into: Factorization, number: int) -> Floats:
    """A factor as its node stores it, the last one without the layer's scale."""
    factor, tensor = FORMS[into.method][number], into.factors[number]
    if number == len(into.factors) - 1:
        tensor = tensor / into.layer.scale.reshape(-1, *[1] * (tensor.ndim - 1))
    if isinstance(into.layer.geometry, Product):
        matrix = tensor.reshape(tensor.shape[:2])
        return matrix if into.layer.geometry.transposed_weight else matrix.T
    sizes = dict(zip(factor.axes, tensor.shape, strict=True))
    inputs = 1 if factor.depthwise else tensor.shape[1]
    return tensor.reshape(tensor.shape[0], inputs, sizes.get("i", 1), sizes.get("j", 1))


def _attributes(node: onnx.NodeProto, layer: Layer, factor: Factor, group: int) -> Sequence[onnx.AttributeProto]:
    if isinstance(layer.geometry, Product):
        return [item for item in node.attribute if item.name == "transB"]
    return [helper.make_attribute(name, value) for name, value in _walk(layer, layer.geometry, factor, group).items()]


def _walk(layer: Layer, how: Conv, factor: Factor, group: int) -> Mapping[str, object]:
    """How a factor walks over its input: along each axis as the layer did, if it has that axis of the kernel."""
    has = ["i" in factor.axes, "j" in factor.axes]

    def where(values: tuple[int, ...], otherwise: int) -> list[int]:
        return [value if there else otherwise for value, there in zip(values, has, strict=True)]

    return {
        "kernel_shape": where(layer.shape[2:], 1),
        "strides": where(how.strides, 1),
        "dilations": where(how.dilations, 1),
        "pads": [*where(how.before, 0), *where(how.after, 0)],
        "group": group,
    }
