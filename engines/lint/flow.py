"""Where a layer's operands come from: quantized, float, or quantized behind an operator that INT8 does not pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx

from engines.lint.view import Quant, View
from engines.onnx_graph import attribute, is_standard, is_weighted

_MOVES = frozenset(
    {"Cast", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "MaxPool", "Neg"}
    | {"ReduceMax", "ReduceMin", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators that TensorRT moves a DequantizeLinear through: they compute the same on the integers."""
_STOPS = frozenset(
    {"AveragePool", "BatchNormalization", "Clip", "Elu", "Gelu", "GlobalAveragePool", "HardSigmoid", "HardSwish"}
    | {"LeakyRelu", "Mish", "PRelu", "Pad", "ReduceMean", "Relu", "Resize", "Selu", "Sigmoid", "Softplus", "Swish"}
    | {"Tanh", "Upsample", "Abs"}
)
"""Operators of one tensor that need float: a layer behind one of them is not INT8 for a DequantizeLinear before it."""
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})
ACTIVATIONS = frozenset(
    {"Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu", "Sigmoid"}
    | {"Softplus", "Swish", "Tanh"}
)
GATES = frozenset({"HardSigmoid", "Sigmoid", "Softplus", "Tanh"})
"""What x * gate(x) is made of: SiLU, Mish, HardSwish."""


@dataclass(frozen=True, eq=False)
class Feed:
    """How one operand of a layer arrives.

    Attributes:
        kind: `blocked`: quantized, but an operator between the DequantizeLinear and the layer needs float.
        quants: the DequantizeLinear, or several behind a Concat.
        blocker: the operator that is in the way.
        transposes: whether the tensor's axes are changed on the way.
    """

    kind: Literal["quantized", "blocked", "float"]
    quants: tuple[Quant, ...] = ()
    blocker: onnx.NodeProto | None = None
    transposes: bool = False

    @property
    def quant(self) -> Quant:
        """The first DequantizeLinear."""
        return self.quants[0]


FLOAT = Feed("float")


def feed(view: View, tensor: str) -> Feed:
    """Walk back from an operand to the DequantizeLinear that it comes from."""
    transposes = False
    blocker: onnx.NodeProto | None = None
    for step, node in _back(view, tensor):
        quant = view.dequantized(step)
        if quant is not None:
            return Feed("blocked" if blocker is not None else "quantized", (quant,), blocker, transposes)
        if node is None:
            return FLOAT
        if node.op_type == "Concat":
            return _concat_feed(view, node, blocker, transposes)
        if not _moves(view, node):
            blocker = blocker if blocker is not None else node
        transposes |= node.op_type in {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"}
    return FLOAT


def _back(view: View, tensor: str) -> Iterator[tuple[str, onnx.NodeProto | None]]:
    """The tensors, and their producers, on the one way back that a DequantizeLinear might lie on."""
    step: str | None = tensor
    while step is not None:
        node = view.producer.get(step)
        yield step, node
        step = _only_source(view, node) if node is not None else None


def _only_source(view: View, node: onnx.NodeProto) -> str | None:
    """The one input that is no constant, of operators of one tensor; the source of x in x * gate(x)."""
    if not is_standard(node) or is_weighted(node):
        return None
    data = [name for name in node.input if name and name not in view.constant]
    if node.op_type == "Mul" and len(data) == 2:
        return silu_input(view, node)
    moving = node.op_type in _MOVES | _STOPS or (node.op_type in _ARITHMETIC and len(node.input) == 2)
    # Quantized constants: the whole way back may be constant.
    return (data or list(node.input))[0] if moving and len(data) <= 1 else None


def _moves(view: View, node: onnx.NodeProto) -> bool:
    """Whether INT8 passes an operator; found by building each with TensorRT-RTX."""
    match node.op_type:
        case "Pad":  # zeros are zeros on the integer grid too
            fill = view.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            constant = attribute(node, "mode", b"constant") in {b"constant", "constant"}
            return not constant or fill is None or not fill.any()
        case "Mul":  # a factor for the whole tensor goes into the scale
            constants = [view.array(name) for name in node.input if name in view.constant]
            return len(constants) == 1 and constants[0] is not None and constants[0].size == 1
        case _:
            return node.op_type in _MOVES


def _concat_feed(view: View, node: onnx.NodeProto, blocker: onnx.NodeProto | None, transposes: bool) -> Feed:
    feeds = [feed(view, name) for name in node.input]
    quants = tuple(quant for each in feeds for quant in each.quants)
    if not quants:
        return FLOAT
    first = feeds[0]
    if any(each.kind == "float" for each in feeds):
        # A tensor that was never quantized joins: nobody asked for INT8 behind it.
        return FLOAT
    tied = all(each.kind == "quantized" and each.quant.same_grid(first.quant) for each in feeds)
    if tied and blocker is None:
        return Feed("quantized", quants, None, transposes)
    inner = next((each.blocker for each in feeds if each.blocker is not None), None)
    return Feed("blocked", quants, blocker or inner or node, transposes)


def silu_input(view: View, mul: onnx.NodeProto) -> str | None:
    """The x of x * gate(x), whatever Q/DQ lie on the gate's output; None for any other product."""
    if mul.op_type != "Mul" or len(mul.input) != 2:
        return None
    for gate, other in (tuple(mul.input), tuple(reversed(mul.input))):
        pair = view.pair(gate)
        node = view.producer.get(pair[0].tensor if pair else gate)
        if node is not None and node.op_type in GATES and node.input[0] in {other, _behind(view, other)}:
            return str(other)
    return None


def _behind(view: View, tensor: str) -> str:
    """The float tensor that a pair of Q/DQ rounds; the tensor itself where there is none."""
    pair = view.pair(tensor)
    return pair[0].tensor if pair else tensor
