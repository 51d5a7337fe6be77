"""The placement policy's view of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.quant.placement.view import GraphView, Op, Weight
from avcompress.spec import WEIGHTED
from engines import onnx_graph

_POOLS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
_WINDOWS = {"AveragePool": "GlobalAveragePool", "MaxPool": "GlobalMaxPool"}


@dataclass(frozen=True)
class _Facts:
    """What a model states about its tensors."""

    constants: Mapping[str, onnx.TensorProto]
    shapes: Mapping[str, tuple[int, ...]]
    macs: Mapping[str, int]


def graph_view(model: onnx.ModelProto) -> GraphView:
    """Describe a graph whose nodes have unique names, as `load_onnx` returns it."""
    facts = _Facts(onnx_graph.initializers(model), onnx_graph.shapes(model), onnx_graph.macs(model))
    constants = set(facts.constants)
    ops: list[Op] = []
    for node in model.graph.node:
        if node.input and constants.issuperset(name for name in onnx_graph.node_inputs(node) if name):
            constants.update(node.output)
        else:
            ops.append(_op(node, facts))
    return GraphView(
        ops=tuple(ops),
        outputs=tuple(output.name for output in model.graph.output),
        constants=frozenset(constants),
    )


def _op(node: onnx.NodeProto, facts: _Facts) -> Op:
    inputs, outputs = onnx_graph.node_inputs(node), tuple(node.output)
    if not onnx_graph.is_standard(node):  # opaque, whatever its name
        return Op(node.name, f"{node.domain}.{node.op_type}", inputs, outputs)
    if node.op_type not in WEIGHTED:
        return Op(node.name, _kind(node, facts), inputs, outputs, moves=_moves(node, facts))
    macs = facts.macs.get(node.name, 0)
    tensor = facts.constants.get(node.input[1])
    if tensor is None:
        return Op(node.name, node.op_type, inputs, outputs, macs=macs)
    dims = tuple(tensor.dims)
    groups = int(str(onnx_graph.attribute(node, "group", 1)))
    return Op(
        node.name,
        node.op_type,
        inputs,
        outputs,
        weight=Weight(tensor.name, 1, _output_axis(node, len(dims))),
        obstacle=_obstacle(node, tensor),
        depthwise=node.op_type == "Conv" and groups != 1 and dims[1] == 1,
        macs=macs,
        channels=weight_channels(node, dims, groups),
        groups=groups,
        kernel=dims[2:] if node.op_type.startswith("Conv") else (),
    )


def _output_axis(node: onnx.NodeProto, rank: int) -> int:
    match node.op_type:
        case "Conv":
            return 0
        case "Gemm":
            return 0 if onnx_graph.attribute(node, "transB", 0) else 1
        case "ConvTranspose":
            return 1
        case _:
            return rank - 1


def weight_channels(node: onnx.NodeProto, dims: tuple[int, ...], groups: int) -> tuple[int, int]:
    """Input and output channels of a weight; (0, 0) where its rank has no such thing."""
    if len(dims) < 2:
        return (0, 0)
    match node.op_type:
        case "Conv" | "ConvInteger" | "QLinearConv":
            return (dims[1] * groups, dims[0])
        case "ConvTranspose":
            return (dims[0], dims[1] * groups)
        case "Gemm" if onnx_graph.attribute(node, "transB", 0):
            return (dims[1], dims[0])
        case _:
            return (dims[-2], dims[-1])


def _obstacle(node: onnx.NodeProto, tensor: onnx.TensorProto) -> str:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return f"weight of type {onnx.TensorProto.DataType.Name(tensor.data_type)}"
    if node.op_type == "MatMul" and len(tensor.dims) != 2:
        return f"weight of rank {len(tensor.dims)}"
    return ""


def _kind(node: onnx.NodeProto, facts: _Facts) -> str:
    """The operator's type; a mean or maximum over all positions of each channel by the name of its global pool."""
    rank = len(facts.shapes.get(node.input[0], ())) if node.input else 0
    if node.op_type in _POOLS:
        axes = _integers(node, "axes", 1, facts)
        spatial = rank > 2 and {axis % rank for axis in axes} == set(range(2, rank))
        return _POOLS[node.op_type] if spatial else node.op_type
    if node.op_type in _WINDOWS:
        output = facts.shapes.get(node.output[0], ())
        is_global = (
            rank > 2
            and set(output[2:]) == {1}
            and _integers(node, "kernel_shape", None, facts) == (facts.shapes[node.input[0]][2:])
        )
        return _WINDOWS[node.op_type] if is_global else node.op_type
    return node.op_type


def _integers(node: onnx.NodeProto, attribute: str, index: int | None, facts: _Facts) -> tuple[int, ...]:
    """A list that some opsets have as an attribute and others as a constant input; () where it is left out."""
    stated = onnx_graph.attribute(node, attribute, None)
    if isinstance(stated, list):
        return tuple(int(value) for value in stated)
    tensor = facts.constants.get(node.input[index]) if index is not None and len(node.input) > index else None
    return () if tensor is None else tuple(int(value) for value in numpy_helper.to_array(tensor).ravel())


def _moves(node: onnx.NodeProto, facts: _Facts) -> bool:
    """Whether every value of a Resize or Pad is an input value or zero."""
    mode = onnx_graph.attribute(node, "mode", b"nearest" if node.op_type in {"Resize", "Upsample"} else b"constant")
    match node.op_type:
        case "Resize" | "Upsample":
            crops = onnx_graph.attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
            return mode == b"nearest" and not crops
        case "Pad":
            return mode != b"constant" or _pads_with_zero(node, facts)
        case _:
            return False


def _pads_with_zero(node: onnx.NodeProto, facts: _Facts) -> bool:
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = facts.constants.get(node.input[2])
    return value is not None and not np.any(numpy_helper.to_array(value))
