"""The INT8 layers of a network with Q/DQ, found by the graph's structure alone, beside the float network's layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from avcompress.patterns import matched
from avcompress.spec import Array, Artifact
from engines import onnx_graph


@dataclass(frozen=True, eq=False)
class Grid:
    """An integer tensor and what its integers mean: real = (q - zero_point) * scale.

    Attributes:
        tensor: its name; a constant's, or that of a QuantizeLinear's output.
        scale_name: of the constant that holds the scale.
        scale, zero_point: float32; (), or one value a channel along `axis`.
        qmin, qmax: the least and the greatest integer of its type.
    """

    tensor: str
    scale_name: str
    scale: NDArray[np.float32]
    zero_point: NDArray[np.float32]
    axis: int | None
    qmin: int
    qmax: int

    def broadcast(self, values: NDArray[np.float32], rank: int) -> NDArray[np.float32]:
        """Scales or zero points in a shape that broadcasts to a tensor of this rank."""
        if self.axis is None:
            return values.reshape(())
        shape = [1] * rank
        shape[self.axis] = -1
        return values.reshape(shape)


@dataclass(frozen=True, eq=False)
class Int8Layer:
    """A weighted operator that multiplies INT8 weights.

    Attributes:
        node: of the quantized network; the float one has a node of the same name.
        weight: its integers are an initializer.
        float_weight: the name of the weight in the float network.
        data: its integers are a QuantizeLinear's output; None where the input is float, or has a scale a channel.
        output: of the node, the same name in both networks.
    """

    node: onnx.NodeProto
    weight: Grid
    float_weight: str
    data: Grid | None
    output: str

    @property
    def name(self) -> str:
        """The node's."""
        return self.node.name


def int8_layers(artifact: Artifact, patterns: Iterable[str] = ("*",)) -> tuple[Int8Layer, ...]:
    """The INT8 layers that a pattern names, in graph order; each with a weight of its own.

    A weight that several nodes read is left out: it has no one input to be fitted to.
    Raises RecipeError when a pattern names no layer of a network that has some.
    """
    found = _all_layers(artifact.model, artifact.reference)
    names = {layer.name: (layer.name, layer.float_weight, layer.output) for layer in found}
    hit = matched(names, patterns, "layers") if names else ()
    return tuple(layer for layer in found if layer.name in hit)


def _all_layers(model: onnx.ModelProto, reference: onnx.ModelProto) -> list[Int8Layer]:
    constants = onnx_graph.initializers(model)
    producer = {output: node for node in model.graph.node for output in node.output}
    originals = {node.name: node for node in reference.graph.node}
    uses = onnx_graph.use_counts(model)
    found = []
    for node in model.graph.node:
        original = originals.get(node.name)
        if not onnx_graph.is_weighted(node) or original is None:
            continue
        weight = read_grid(producer.get(node.input[1]), constants)
        if weight is None or weight.tensor not in constants or uses[node.input[1]] * uses[weight.tensor] != 1:
            continue
        data = read_grid(producer.get(node.input[0]), constants)
        data = data if data is not None and data.axis is None else None
        found.append(Int8Layer(node, weight, original.input[1], data, node.output[0]))
    return found


def read_grid(node: onnx.NodeProto | None, constants: Mapping[str, onnx.TensorProto]) -> Grid | None:
    """The grid of what a DequantizeLinear or QuantizeLinear reads or writes as integers; None if it has no INT8 one."""
    if node is None or node.op_type not in {"DequantizeLinear", "QuantizeLinear"}:
        return None
    if node.input[1] not in constants or len(node.input) < 3 or node.input[2] not in constants:
        return None
    zero_point = numpy_helper.to_array(constants[node.input[2]])
    if zero_point.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
        return None
    scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
    if scale.ndim > 1:  # in blocks
        return None
    limits = np.iinfo(zero_point.dtype)
    return Grid(
        tensor=node.input[0] if node.op_type == "DequantizeLinear" else node.output[0],
        scale_name=node.input[1],
        scale=scale if scale.size > 1 else scale.reshape(()),
        zero_point=zero_point.astype(np.float32) if scale.size > 1 else zero_point.astype(np.float32).reshape(()),
        axis=int(str(onnx_graph.attribute(node, "axis", 1))) if scale.size > 1 else None,
        qmin=int(limits.min),
        qmax=int(limits.max),
    )


def constant_bias(model: onnx.ModelProto, node: onnx.NodeProto) -> NDArray[np.float64] | None:
    """What a layer adds to its output channels: (M,), or () where it is the same for all; None if it is no constant."""
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(())
    constant = onnx_graph.initializers(model).get(node.input[2])
    if constant is None:
        return None
    values = numpy_helper.to_array(constant).astype(np.float64) * float(str(onnx_graph.attribute(node, "beta", 1.0)))
    # Where a Gemm has one bias a row, repairs added the same to all of them.
    return np.asarray(values.reshape(-1, values.shape[-1]).mean(0) if values.ndim else values)


def replace_constants(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with other values in some of its initializers; types and shapes stay."""
    new = onnx_graph.copy(model)
    for tensor in new.graph.initializer:
        if tensor.name in values:
            old = numpy_helper.to_array(tensor)
            value = np.asarray(values[tensor.name]).astype(old.dtype).reshape(old.shape)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return new
