"""Which layer computes the channels that another one reads, and what lies between the two.

A channel can be divided by a scale in the layer that computes it and multiplied again in the one that reads it, where
only operators lie between that treat channels alike and keep factors: f(x / s) = f(x) / s. Through others, such as
SiLU, the scale has to be a multiplication of its own, behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import onnx

from avcompress.spec import WEIGHTED
from engines.onnx_graph import attribute, initializers, is_standard, shapes, use_counts

_HOMOGENEOUS = frozenset(
    {"AveragePool", "Dropout", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "PRelu"}
    | {"Relu"}
)
"""f(x / s) = f(x) / s for every s > 0, channel by channel."""
_ELEMENTWISE = frozenset(
    {"Add", "Celu", "Clip", "Div", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Mul", "Selu", "Sigmoid"}
    | {"Softplus", "Softsign", "Sub", "Swish", "Tanh", "ThresholdedRelu"}
)
_FLATTENING = frozenset({"Flatten", "Reshape", "Squeeze"})
_IMAGES = frozenset({"BatchNormalization", "Conv", "ConvTranspose"})


class Source(NamedTuple):
    """Where channels come from.

    Attributes:
        node: a weighted or batch-norm node with constant operands.
        exact: whether only operators that keep factors lie between.
        between: their types, from the reader to the source.
    """

    node: onnx.NodeProto
    exact: bool
    between: tuple[str, ...]


class Flow:
    """A model with its look-ups."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = initializers(model)
        self.uses = use_counts(model)
        self._producer = {output: node for node in model.graph.node for output in node.output}
        self._shapes = shapes(model)

    def is_carrier(self, node: onnx.NodeProto) -> bool:
        """Whether the node's channels can be scaled in its float32 constants, that no other node reads."""
        if not is_standard(node) or node.op_type not in {*WEIGHTED, "BatchNormalization"}:
            return False
        if attribute(node, "training_mode", 0) or attribute(node, "transA", 0):
            return False
        operands = [name for name in node.input[1:] if name]
        if not operands or any(name not in self.constants for name in operands):
            return False
        tensor = self.constants[operands[0]]
        matrix = node.op_type not in {"Gemm", "MatMul"} or len(tensor.dims) == 2
        return tensor.data_type == onnx.TensorProto.FLOAT and matrix and self.uses[operands[0]] == 1

    def source(self, tensor: str, readers: int = 1) -> Source | None:
        """The node that computes a tensor's channels, if nothing but `readers` uses of the tensor reads them."""
        exact, between = True, list[str]()
        while self.uses[tensor] == readers:
            node = self._producer.get(tensor)
            if node is None:
                return None
            if self.is_carrier(node):
                return Source(node, exact and self._scalable(node), tuple(between))
            step = self._kept(node)
            if step is None:
                step, readers = self._elementwise(node)
                exact = False
            else:
                readers = 1
            if step is None:
                return None
            between.append(node.op_type)
            tensor = step
        return None

    def same_channels(self, source: Source, reader: onnx.NodeProto) -> bool:
        """Whether the reader weighs the source's channels: images have them on axis 1, matrices on the last."""
        made, read = source.node.op_type in _IMAGES, reader.op_type in _IMAGES
        if made != read and len(self._shapes.get(reader.input[0], ())) != 2:
            return False
        if not made and any("Pool" in kind for kind in source.between):
            return False
        return self._channels(source.node, 0) == self._channels(reader, 1)

    def _channels(self, node: onnx.NodeProto, side: int) -> int:
        """The number of output (0) or input (1) channels."""
        dims = self.constants[node.input[1]].dims
        if node.op_type == "BatchNormalization":
            return int(dims[0])
        groups = int(str(attribute(node, "group", 1)))
        transposed = node.op_type == "Conv" or bool(attribute(node, "transB", 0))
        outputs, inputs = (dims[0], dims[1]) if transposed else (dims[1], dims[0])
        if node.op_type == "Conv":
            inputs *= groups
        return int((outputs * groups if node.op_type == "ConvTranspose" else outputs, inputs)[side])

    def _scalable(self, node: onnx.NodeProto) -> bool:
        """Whether the bias is one value a channel: Gemm takes others."""
        if node.op_type != "Gemm" or len(node.input) < 3 or not node.input[2]:
            return True
        bias, weight = (self.constants[node.input[i]].dims for i in (2, 1))
        return tuple(bias) == (weight[0 if attribute(node, "transB", 0) else 1],)

    def _kept(self, node: onnx.NodeProto) -> str | None:
        """The tensor that an operator passes on channel by channel, factors kept; None for other operators."""
        if not is_standard(node):
            return None
        if node.op_type in _HOMOGENEOUS or (node.op_type in _FLATTENING and self._flattens(node)):
            return str(node.input[0])
        return None

    def _flattens(self, node: onnx.NodeProto) -> bool:
        """Whether (1, C, 1, 1) becomes (1, C)."""
        before, after = (self._shapes.get(name, ()) for name in (node.input[0], node.output[0]))
        return len(after) == 2 and len(before) > 2 and before[1] == after[1] and set(before[2:]) == {1}

    def _elementwise(self, node: onnx.NodeProto) -> tuple[str | None, int]:
        """The tensor that an element-wise operator is a function of, and how often it is read for that."""
        data = [name for name in node.input if name and name not in self.constants]
        if not is_standard(node) or node.op_type not in _ELEMENTWISE:
            return None, 0
        if len(data) == 1:
            return data[0], 1
        if node.op_type != "Mul" or len(data) != 2:
            return None, 0
        # x * f(x): one arm leads to where the other starts, or both lead to one tensor.
        left, right = (tuple(self._arm(name)) for name in data)
        root = next((name for name in left if name in right), None)
        return (root, 2) if root is not None and self.uses[root] == 2 else (None, 0)

    def _arm(self, tensor: str) -> Iterator[str]:
        """A tensor, and those it is an element-wise function of and the only reader of."""
        yield tensor
        while self.uses[tensor] == 1:
            node = self._producer.get(tensor)
            data = [name for name in node.input if name and name not in self.constants] if node else []
            if node is None or not is_standard(node) or node.op_type not in _ELEMENTWISE | {"Relu"} or len(data) != 1:
                return
            tensor = data[0]
            yield tensor


def pads(node: onnx.NodeProto) -> bool:
    """Whether zeros may come in beside the data of a weighted node."""
    padded = any(value != "0" for value in str(attribute(node, "pads", [0])).strip("[]").split(", "))
    automatic = attribute(node, "auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}
    return node.op_type == "ConvTranspose" or padded or automatic
