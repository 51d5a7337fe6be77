"""The network as OpenVINO computes it rightly: one FakeQuantize where ONNX has QuantizeLinear and DequantizeLinear.

OpenVINO 2025.0 to 2026.4 loses the scale when it moves a Q/DQ pair through a Concat: a concatenation of Relu and Neg,
quantized and fed to an identity convolution, comes back rounded to -1, 0 and 1. The same arithmetic as its own
FakeQuantize is computed as written. tests/engines/test_openvino_dialect.py holds the case.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

DOMAIN = "org.openvinotoolkit"
_LOW = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
INTEGERS = (np.dtype(np.int8), np.dtype(np.uint8))


def in_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which all that is FP16 or BF16 is FP32, with the values that the constants have.

    OpenVINO computes in the precision that it is asked for, whatever the network's types: it takes Casts to FP16 out.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.data_type in _LOW:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*result.graph.input, *result.graph.output, *result.graph.value_info):
        if value.type.tensor_type.elem_type in _LOW:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for node in result.graph.node:
        for attr in node.attribute:
            _widen_(attr)
    return result


def _widen_(attr: onnx.AttributeProto) -> None:
    """Let an attribute that names a type, or holds values, be of FP32 where it is FP16 or BF16."""
    if attr.name in {"to", "dtype", "output_dtype"} and attr.i in _LOW:
        attr.i = onnx.TensorProto.FLOAT
    if attr.type == onnx.AttributeProto.TENSOR and attr.t.data_type in _LOW:
        attr.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attr.t).astype(np.float32), attr.t.name))


def with_fake_quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each per-tensor Q/DQ pair on an activation is one FakeQuantize of 256 levels.

    Weights, and pairs that are per channel or not 8 bit, stay as they are.
    Source: OpenVINO's FakeQuantize-1 operator, x -> clamp(round((x - low) / step)) * step + low.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    quantize = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(output.name for output in model.graph.output)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    replaced: Counter[str] = Counter()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        pair = quantize.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        limits = _limits(pair, node, constants) if pair is not None else None
        if pair is None or limits is None:
            nodes.append(node)
            continue
        replaced[node.input[0]] += 1
        nodes.append(_fake_quantize(pair.input[0], node, limits, result.graph))
    result.graph.node.extend(node for node in nodes if not _is_spent(node, replaced, uses))
    if replaced:
        result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return result


def _is_spent(node: onnx.NodeProto, replaced: Counter[str], uses: Counter[str]) -> bool:
    """Whether a QuantizeLinear has lost every consumer."""
    name = node.output[0] if node.output else ""
    return node.op_type == "QuantizeLinear" and 0 < uses[name] == replaced[name]


def _limits(
    quantize: onnx.NodeProto, dequantize: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> tuple[float, float] | None:
    """The lowest and highest value that a pair can give; None for a pair that stays."""
    names = list(quantize.input[1:3])
    if names != list(dequantize.input[1:3]) or len(names) != 2 or quantize.input[0] in constants:
        return None
    if not all(name in constants for name in names):
        return None
    scale, zero_point = (numpy_helper.to_array(constants[name]) for name in names)
    if scale.size != 1 or zero_point.dtype not in INTEGERS:
        return None
    info = np.iinfo(zero_point.dtype)
    low, high = ((bound - int(zero_point.item())) * float(scale.item()) for bound in (info.min, info.max))
    return low, high


def _fake_quantize(
    tensor: str, dequantize: onnx.NodeProto, limits: tuple[float, float], graph: onnx.GraphProto
) -> onnx.NodeProto:
    names = [f"{dequantize.output[0]}_{end}" for end in ("low", "high")]
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(limit, np.float32), name) for limit, name in zip(limits, names, strict=True)
    )
    return helper.make_node(
        "FakeQuantize", [tensor, *names, *names], list(dequantize.output), dequantize.name, domain=DOMAIN, levels=256
    )
