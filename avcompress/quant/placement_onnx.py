"""The placement policy's view of an ONNX graph."""

from __future__ import annotations

import onnx

from avcompress.quant.placement import GraphView, Op, Weight
from avcompress.spec import WEIGHTED
from engines import onnx_graph


def graph_view(model: onnx.ModelProto) -> GraphView:
    """Describe a graph whose nodes have unique names, as `load_onnx` returns it."""
    constants = onnx_graph.initializers(model)
    macs = onnx_graph.macs(model)
    return GraphView(
        ops=tuple(_op(node, constants, macs.get(node.name, 0)) for node in model.graph.node),
        outputs=tuple(output.name for output in model.graph.output),
        constants=frozenset(constants),
    )


def _op(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], macs: int) -> Op:
    # An operator of another domain is opaque, whatever its name.
    kind = node.op_type if onnx_graph.is_standard(node) else f"{node.domain}.{node.op_type}"
    inputs, outputs = onnx_graph.node_inputs(node), tuple(node.output)
    if kind not in WEIGHTED:
        return Op(node.name, kind, inputs, outputs)
    tensor = constants.get(node.input[1])
    if tensor is None:
        return Op(node.name, kind, inputs, outputs, macs=macs)
    weight = Weight(tensor.name, 1, _output_axis(node, len(tensor.dims)))
    depthwise = kind == "Conv" and onnx_graph.attribute(node, "group", 1) != 1 and tensor.dims[1] == 1
    return Op(node.name, kind, inputs, outputs, weight, _obstacle(node, tensor), depthwise, macs)


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


def _obstacle(node: onnx.NodeProto, tensor: onnx.TensorProto) -> str:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return f"weight of type {onnx.TensorProto.DataType.Name(tensor.data_type)}"
    if node.op_type == "MatMul" and len(tensor.dims) != 2:
        return f"weight of rank {len(tensor.dims)}"
    return ""
