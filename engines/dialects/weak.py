"""The weak dialect: TensorRT 8.5 and 8.6: FP32 with Q/DQ, opset 17, and flags that let the builder choose FP16.

Weights are FP32 with Q and DQ, as NVIDIA's own tools of that time export them. The parsers of 8.5 and 8.6 would make a
constant layer of int8 weights too, but the documentation of both says that networks with INT8 tensors are not taken.
Every Q/DQ has three inputs, and scales in FP32: the parser of 8.5 asks for the first and reads scales as the second.

Source: onnx/onnx-tensorrt, builtin_op_importers.cpp of release/8.5-GA and release/8.6-GA.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from avcompress.spec import ModelError
from engines.dialects.decompose import decomposed
from engines.dialects.dialect import DialectSettings, Expressed, Flag
from engines.dialects.float_range import outside_fp16, seen_ranges
from engines.dialects.lower import lowered
from engines.dialects.notes import grouped
from engines.dialects.planned import planned_precisions
from engines.dialects.prepare import in_fp32, prepared, refuse_unknown, refuse_untakeable
from engines.dialects.weights import with_float_weights, without_lone_weights
from engines.onnx_graph import (
    is_standard,
)
from engines.opset import opset_of
from engines.precision import kept_fp32
from engines.qdq import without_qdq

NEWEST_OPSET = 17
OPERATORS = frozenset(
    {"Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh"}
    | {"AveragePool", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Concat", "Constant"}
    | {"ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear"}
    | {"Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "GRU"}
    | {"Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"}
    | {"Greater", "GreaterOrEqual", "GridSample", "HardSigmoid", "HardSwish", "Identity", "If"}
    | {"InstanceNormalization", "IsNaN", "LRN", "LSTM", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax"}
    | {"Loop", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean", "MeanVarianceNormalization"}
    | {"Min", "Mod", "Mul", "Neg", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow"}
    | {"QuantizeLinear", "RNN", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"}
    | {"ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize"}
    | {"ReverseSequence", "RoiAlign", "Round", "Scan", "Scatter", "ScatterElements", "ScatterND", "Selu"}
    | {"Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign"}
    | {"SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile"}
    | {"TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where", "Xor"}
)
"""The standard operators that the parser of 8.5 imports. Source: DEFINE_BUILTIN_OP_IMPORTER in release/8.5-GA."""
_NOT_CHOSEN = frozenset({"arithmetic on shapes", "ONNX has the operator in FP32 only"})


def express_weak(model: onnx.ModelProto, settings: DialectSettings) -> Expressed:
    """FP32 with Q/DQ, and each weighted layer's precision; raises ModelError for what 8.5 or 8.6 would not take."""
    if settings.float_type == "bf16":
        raise ModelError("ONNX graph: expected fp16 or fp32 for the weak dialect, TensorRT 8 has no bf16; use fp16")
    new, notes = prepared(model)
    refuse_unknown(new, settings.keep_float)
    new, widened = in_fp32(new)
    new, unpacked = without_lone_weights(new)
    normalizations = {node.name for node in new.graph.node if node.op_type.endswith("Normalization")}
    new, older, parts = at_opset_17(new, settings.newest_opset)
    refuse_untakeable(new, "tensorrt-8")
    new = with_float_weights(new)
    inside = dict.fromkeys(normalizations, "squares within a normalization") | dict(settings.keep_float)
    keep = _kept(new, settings, {part: inside[whole] for part, whole in parts.items() if whole in inside})
    planned = {name: _chosen(name, kind, keep, settings) for name, kind in planned_precisions(new).items()}
    return Expressed(
        model=new,
        dialect="weak",
        flags=flags(new, settings, bool(keep)),
        precisions=planned | dict.fromkeys((name for name in keep if name not in planned), "fp32"),
        notes=(*notes, *widened, *unpacked, *older, *grouped("stays FP32", keep)),
    )


def _chosen(name: str, kind: str, keep: Mapping[str, str], settings: DialectSettings) -> str:
    if kind == "int8":
        return kind
    return "fp32" if name in keep else settings.float_type


def flags(model: onnx.ModelProto, settings: DialectSettings, constrained: bool) -> tuple[Flag, ...]:
    """The builder flags for a weakly typed network."""
    found: list[Flag] = ["fp16"] if settings.float_type == "fp16" else []
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        found.append("int8")
    return (*found, "obey") if constrained and found else tuple(found)


def _kept(model: onnx.ModelProto, settings: DialectSettings, parts: Mapping[str, str]) -> dict[str, str]:
    """The nodes that FP16 does not fit, by name, and why: the builder would choose it; `parts` are known to be some."""
    if settings.float_type == "fp32":
        return {}
    keep = outside_fp16(model, seen_ranges(model, settings.ranges)) | dict(parts) | dict(settings.keep_float)
    floats = without_qdq(model)
    there = {node.name for node in floats.graph.node}
    reasons = kept_fp32(floats, "fp16", {name: why for name, why in keep.items() if name in there})
    return {name: why for name, why in reasons.items() if why not in _NOT_CHOSEN}


def at_opset_17(
    model: onnx.ModelProto, newest: int = NEWEST_OPSET
) -> tuple[onnx.ModelProto, tuple[str, ...], dict[str, str]]:
    """The network at opset 17 or older, without operators that the parsers of 8.5 and 8.6 lack.

    Returns: the network, notes, and by the name of each new node that of the one whose part it is.
    Raises ModelError naming the node that has no older form.
    """
    lacking = {node.op_type for node in model.graph.node if is_standard(node)} - OPERATORS
    new, parts = decomposed(model, lacking)
    current, opset = opset_of(new), min(newest, NEWEST_OPSET)
    new = lowered(new, opset)
    for node in new.graph.node:
        if is_standard(node) and node.op_type not in OPERATORS:
            raise ModelError(
                f"node {node.name!r} ({node.op_type}): expected an operator that TensorRT 8.5 imports, got one that it "
                "lacks; replace it by others, or cut the graph before it"
            )
    notes = [f"{whole} is written by older operators" for whole in dict.fromkeys(parts.values())]
    if current > opset:
        notes.append(f"opset {current} is written as opset {opset}")
    return new, tuple(notes), parts
