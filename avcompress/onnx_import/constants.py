"""What of a graph is constant, and which of the constants are trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from avcompress.onnx_import.operand import DTYPES, OnnxNode
from avcompress.onnx_import.quantized import dequantize_linear
from avcompress.spec import Array, ModelError
from engines.onnx_graph import attribute

_TRAINED = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DequantizeLinear": (0,),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "QuantizeLinear": (0,),
    "RMSNormalization": (1,),
}
_NEVER_FOLDED = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
_FLOATS = frozenset({"float32", "float64", "float16", "bfloat16"})


def trained(graph: onnx.GraphProto) -> frozenset[str]:
    """The names that weights and biases have as constants: operands of layers, and what is added to a product."""
    names = {
        node.input[index]
        for node in graph.node
        for index in _TRAINED.get(node.op_type, ())
        if index < len(node.input) and node.input[index]
    }
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul"}
    vectors = {item.name for item in graph.initializer if len(item.dims) == 1}
    for node in graph.node:
        if node.op_type == "Add" and products.intersection(node.input):
            names |= vectors.intersection(node.input)
    return frozenset(names.intersection(item.name for item in graph.initializer))


def values_of(graph: onnx.GraphProto) -> tuple[dict[str, Array], dict[str, int]]:
    """The constants by name, and their ONNX types; those stored as integers behind a DequantizeLinear as floats."""
    kinds = {item.name: int(item.data_type) for item in graph.initializer}
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    raw = dict(values)
    by: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        name = node.input[0] if node.op_type == "DequantizeLinear" else ""
        if name not in raw:
            continue
        first = by.setdefault(name, node)
        if list(first.input[1:]) != list(node.input[1:]):
            raise ModelError(
                f"node {node.name!r} (DequantizeLinear): expected one scale for the constant {name!r}, got two; "
                "store it once for each"
            )
        values[name] = _dequantized(node, raw)
    return values, kinds


def _dequantized(node: onnx.NodeProto, raw: Mapping[str, Array]) -> Array:
    operands = [raw.get(name) for name in node.input]
    if any(name and value is None for name, value in zip(node.input, operands, strict=True)):
        raise ModelError(
            f"node {node.name!r} (DequantizeLinear): expected a constant scale for a constant, got a computed one; "
            "quantize the model again"
        )
    tensors = [None if v is None else torch.from_numpy(v.astype(np.float32)) for v in operands]
    data, scale = tensors[0], tensors[1]
    zero = tensors[2] if len(tensors) > 2 else None
    if data is None or scale is None:
        raise ModelError(f"node {node.name!r} (DequantizeLinear): expected a scale, got none; quantize the model again")
    axis, block = int(str(attribute(node, "axis", 1))), int(str(attribute(node, "block_size", 0)))
    along = axis % data.dim() if scale.dim() else None
    return np.asarray(dequantize_linear(data, scale, zero, along, block).numpy())


def as_tensor(value: Array, kind: int | None = None) -> Tensor:
    """A torch tensor of its own memory; `kind` is the ONNX type where NumPy has no such type."""
    if value.dtype.name in _NATIVE:
        return torch.from_numpy(np.array(value))
    wide = torch.from_numpy(value.astype(np.float32))
    dtype = torch.bfloat16 if value.dtype.name == "bfloat16" else DTYPES.get(kind or 0, torch.float32)
    return wide.to(dtype)


_NATIVE = frozenset({"float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"})


def is_float(value: Array) -> bool:
    """Whether it can be trained."""
    return value.dtype.name in _FLOATS


def folded(node: OnnxNode) -> tuple[Array, ...] | None:
    """The outputs of a node that depends on constants and shapes alone; None for any other."""
    if node.kind == "Shape":
        start, end = node.attribute("start", 0), node.attribute("end", None)
        return (np.array(node.x.shape[start:end], np.int64),)
    if node.kind == "Size":
        return (np.array(np.prod(node.x.shape, dtype=np.int64)),)
    if not node.inputs or node.kind in _NEVER_FOLDED or node.proto.domain not in {"", "ai.onnx"}:
        return None
    if any(operand is not None and operand.value is None for operand in node.inputs):
        return None
    feeds = {o.name: o.value for o in node.inputs if o is not None}
    try:
        outputs = ReferenceEvaluator(node.proto, opsets={"": node.opset}).run(None, feeds)
    except Exception as error:  # the evaluator raises what NumPy and its own operators raise
        raise node.error(
            "constants that it can be computed from", f"{type(error).__name__}", "export the model again"
        ) from error
    return tuple(np.asarray(value) for value in outputs)
