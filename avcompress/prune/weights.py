"""The constants that weighted layers multiply by, and along which of their axes outputs and inputs lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx
from torch import fx
from torch.nn import functional as F  # noqa: N812

from avcompress.spec import WEIGHTED
from engines.onnx_graph import attribute, fold_constants, initializers, is_weighted, name_nodes


class Weight(NamedTuple):
    """A weighted layer with a constant operand.

    Attributes:
        layer: its node's name.
        kind: Conv, ConvTranspose, Gemm or MatMul.
        tensor: the name of the constant.
        operand: which of the layer's inputs it is: 1, or 0 in a MatMul that has it on the left.
        outputs: its axis of the layer's outputs, in a transposed convolution of those of one group.
        inputs: its axis of what is summed over, in a convolution of the inputs of one group.
        groups: of a convolution; 1 of all others.
        data_axis: of the layer's other operand, that is summed over, counted from the end.
    """

    layer: str
    kind: str
    tensor: str
    operand: int
    outputs: int
    inputs: int
    groups: int
    data_axis: int


def ready(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network as import_onnx reads it: nodes have names, weights do not hide behind reshapes."""
    return name_nodes(fold_constants(network))


def weights_of(network: onnx.ModelProto) -> tuple[Weight, ...]:
    """The weights of an ONNX network in graph order; one for each layer, also where several share a constant."""
    return weights_among(network, {name: tuple(tensor.dims) for name, tensor in initializers(network).items()})


def weights_among(network: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Weight, ...]:
    """The same where these tensors are the constants."""
    found = []
    for node in network.graph.node:
        if not is_weighted(node):
            continue
        groups = int(str(attribute(node, "group", 1)))
        transposed = (bool(attribute(node, "transA", 0)), bool(attribute(node, "transB", 0)))
        for operand in _operands(node.op_type):
            tensor = node.input[operand]
            if len(shapes.get(tensor, ())) > 1:
                place = (node.op_type, tensor, operand, len(shapes[tensor]))
                found.append(_weight(node.name, place, groups, transposed))
                break
    return tuple(found)


def layers_of(module: fx.GraphModule) -> tuple[tuple[Weight, fx.Node], ...]:
    """The same of what import_onnx made of a network, with the call that each layer is."""
    found = []
    for node in module.graph.nodes:
        kind = node.meta.get("onnx_op")
        for operand in _operands(kind) if kind in WEIGHTED else ():
            constant = node.args[operand]
            if constant.op == "get_attr" and len(constant.meta["shape"]) > 1:
                place = (kind, constant.meta["onnx"][1][0], operand, len(constant.meta["shape"]))
                found.append((_weight(node.meta["onnx"][0], place, _groups(node, kind), _transposed(node)), node))
                break
    return tuple(found)


def _operands(kind: str) -> tuple[int, ...]:
    return (1, 0) if kind == "MatMul" else (1,)


def _groups(node: fx.Node, kind: str) -> int:
    if kind not in {"Conv", "ConvTranspose"}:
        return 1
    data, weight = (argument.meta["shape"] for argument in node.args[:2])  # type: ignore[union-attr]
    channels = data[1] if kind == "Conv" else node.meta["shape"][1]
    return int(channels // weight[1])


def _transposed(node: fx.Node) -> tuple[bool, bool]:
    """Of a Gemm."""
    if node.target is F.linear or len(node.args) < 5:
        return False, True
    return node.args[4]  # type: ignore[return-value]


def _weight(layer: str, place: tuple[str, str, int, int], groups: int, transposed: tuple[bool, bool]) -> Weight:
    kind, tensor, operand, rank = place
    match kind:
        case "Conv":
            axes = (0, 1, 1 - rank)
        case "ConvTranspose":
            axes = (1, 0, 1 - rank)
        case "Gemm":
            axes = (0, 1, -1) if transposed[1] else (1, 0, -1)
            axes = (*axes[:2], -2) if transposed[0] else axes
        case _:
            axes = (rank - 1, rank - 2, -1) if operand else (rank - 2, rank - 1, -2)
    return Weight(layer, kind, tensor, operand, axes[0], axes[1], groups, axes[2])
