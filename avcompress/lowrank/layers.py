"""Which layers of a network can be taken apart, and why the others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from avcompress.lowrank.forms import Extent, Floats, Shape, layer_macs
from avcompress.patches import Conv, Geometry, Product, geometry
from avcompress.patterns import matched
from avcompress.spec import ModelError
from engines.onnx_graph import attribute, initializers, is_standard, is_weighted, shapes, use_counts

_SMALLEST = 2.0**-10
"""Of a channel's scale against the largest: what normalization all but switches off would get any weight otherwise."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that can be taken apart.

    Attributes:
        name: of its node.
        op: Conv, Gemm or MatMul.
        source: the tensor that it reads.
        geometry: how it becomes a matrix product.
        extent: how far its inputs and outputs reach.
        weight: (M, C, kh, kw), each output channel times `scale`; a matrix product's kernel is 1x1.
        scale: (M,), what the batch normalization behind it, if there is one, multiplies each output channel by.
        has_bias: whether what its output lacks in the mean can be added to a bias.
    """

    name: str
    op: str
    source: str
    geometry: Geometry
    extent: Extent
    weight: Floats
    scale: Floats
    has_bias: bool

    @property
    def shape(self) -> Shape:
        """M, C, kh, kw."""
        outputs, inputs, rows, columns = self.weight.shape
        return outputs, inputs, rows, columns

    @property
    def width(self) -> int:
        """Weights of one output channel."""
        return int(np.prod(self.shape[1:]))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return layer_macs(self.shape, self.extent)


@dataclass(frozen=True)
class Left:
    """A layer that stays as it is, and why."""

    layer: str
    reason: str


def find_layers(
    network: onnx.ModelProto, patterns: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> tuple[tuple[Layer, ...], tuple[Left, ...]]:
    """The layers that match, in graph order, and those that cannot be taken apart or are left out.

    Args:
        network: float, with named nodes, constants folded and shapes stated.
        patterns: on a node's name, its weight's or output's name.
        exclude: the same, of layers to leave.

    Raises RecipeError for a pattern that matches no layer, ModelError for a weight that is not finite.
    """
    graph = _Graph(network)
    nodes = [node for node in network.graph.node if is_weighted(node)]
    names = {node.name: (node.name, node.input[1], *node.output) for node in nodes}
    chosen = matched(names, patterns, "factorize.layers") if nodes else set()
    chosen -= matched(names, exclude, "factorize.exclude") if nodes else set()
    found: list[Layer] = []
    left: list[Left] = []
    for node in nodes:
        read = graph.layer(node) if node.name in chosen else "the recipe leaves it out"
        if isinstance(read, Layer):
            found.append(read)
        else:
            left.append(Left(node.name, read))
    return tuple(found), tuple(left)


class _Graph:
    """What layers are judged by."""

    def __init__(self, network: onnx.ModelProto) -> None:
        self.constants = initializers(network)
        self.uses = use_counts(network)
        self.shapes = shapes(network)
        norms = [node for node in network.graph.node if node.op_type == "BatchNormalization" and is_standard(node)]
        self.norms = {node.input[0]: node for node in norms if self.uses[node.input[0]] == 1}

    def layer(self, node: onnx.NodeProto) -> Layer | str:
        """The layer, or the reason why it stays."""
        reason = self._unfit(node)
        if reason:
            return reason
        stored = numpy_helper.to_array(self.constants[node.input[1]])
        if not np.isfinite(stored).all():
            raise ModelError(
                f"layer {node.name!r}: expected finite weights, got NaN or infinity in {node.input[1]!r}; "
                "export the network again"
            )
        data, output = self.shapes[node.input[0]], self.shapes[node.output[0]]
        how = geometry(node, data, stored.shape)
        if how is None or (isinstance(how, Product) and how.transposed_data):
            return "its first operand is transposed"
        kernel = stored.shape[2:] if isinstance(how, Conv) else (1, 1)
        scale = self._scale(node, output[1] if isinstance(how, Conv) else output[-1])
        weight = how.matrix(stored)[0].astype(np.float32) * scale[:, None]
        return Layer(
            name=node.name,
            op=node.op_type,
            source=node.input[0],
            geometry=how,
            extent=_extent(how, data, output),
            weight=weight.reshape(len(weight), -1, *kernel),
            scale=scale,
            has_bias=self._can_have_bias(node, len(weight)),
        )

    def _unfit(self, node: onnx.NodeProto) -> str:
        weight = self.constants.get(node.input[1])
        if node.op_type == "ConvTranspose":
            return "transposed convolutions are not factorized"
        if weight is None or node.input[0] in self.constants:
            return "its second operand is not a constant weight"
        if node.op_type == "Conv" and attribute(node, "group", 1) != 1:
            return "depthwise convolution" if weight.dims[1] == 1 else "grouped convolution"
        if len(weight.dims) != (4 if node.op_type == "Conv" else 2):
            return f"its weight has {len(weight.dims)} dimensions"
        if weight.data_type != onnx.TensorProto.FLOAT:
            return "its weight is not float32"
        if self.uses[node.input[1]] > 1:
            return "it shares its weight"
        known = node.input[0] in self.shapes and node.output[0] in self.shapes
        return "" if known else "its shapes are not static"

    def _scale(self, node: onnx.NodeProto, channels: int) -> Floats:
        """What a batch normalization that alone reads the layer multiplies its channels by; its size, not its sign."""
        norm = self.norms.get(node.output[0])
        if node.op_type != "Conv" or norm is None or any(name not in self.constants for name in norm.input[1:]):
            return np.ones(channels, np.float32)
        gamma, variance = (numpy_helper.to_array(self.constants[norm.input[index]]) for index in (1, 4))
        scale: NDArray[np.float32] = np.abs(gamma) / np.sqrt(variance + float(str(attribute(norm, "epsilon", 1e-5))))
        return np.maximum(scale, scale.max() * _SMALLEST).astype(np.float32) if scale.any() else np.ones_like(scale)

    def _can_have_bias(self, node: onnx.NodeProto, channels: int) -> bool:
        if node.op_type == "MatMul":
            return False
        if len(node.input) < 3 or not node.input[2]:
            return True
        bias = self.constants.get(node.input[2])
        return bias is not None and tuple(bias.dims) == (channels,) and bool(attribute(node, "beta", 1.0))


def _extent(how: Geometry, data: Sequence[int], output: Sequence[int]) -> Extent:
    if isinstance(how, Conv):
        return Extent((data[2], data[3]), (output[2], output[3]), data[0])
    rows = int(np.prod(data[:-1]))
    return Extent((rows, 1), (rows, 1))
