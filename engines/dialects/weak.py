"""The weak dialect: TensorRT 8.5 and 8.6: FP32 with Q/DQ, opset 17, and flags that let the builder choose FP16.

Weights are FP32 with Q and DQ, as NVIDIA's own tools of that time export them. The parsers of 8.5 and 8.6 would make a
constant layer of int8 weights too, but the documentation of both says that networks with INT8 tensors are not taken.
Every Q/DQ has three inputs, and scales in FP32: the parser of 8.5 asks for the first and reads scales as the second.

Source: onnx/onnx-tensorrt, builtin_op_importers.cpp of release/8.5-GA and release/8.6-GA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.spec import ModelError
from engines.dialects.decompose import decomposed
from engines.dialects.dialect import DialectSettings, Expressed, Flag
from engines.dialects.float_range import outside_fp16, seen_ranges
from engines.dialects.lower import lowered
from engines.dialects.notes import grouped
from engines.dialects.planned import planned_precisions, sites_by_edge
from engines.dialects.prepare import in_fp32, prepared, refuse_untakeable
from engines.onnx_graph import (
    check,
    copy,
    drop_unused_initializers,
    fresh,
    infer_shapes,
    initializers,
    is_standard,
    set_nodes_,
    use_counts,
)
from engines.opset import opset_of
from engines.precision import kept_fp32
from engines.qdq import QdqSite, constant_values, dequantize_array, qdq_sites, without_qdq

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
    new, widened = in_fp32(new)
    new, unpacked = without_lone_weights(new)
    new, older, parts = at_opset_17(new, settings.newest_opset)
    refuse_untakeable(new, "tensorrt-8")
    new = with_float_weights(new)
    keep = _kept(new, settings, parts)
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
    """The nodes that FP16 does not fit, by name, and why: the builder would choose it."""
    if settings.float_type == "fp32":
        return {}
    keep = outside_fp16(model, seen_ranges(model, settings.ranges)) | dict(settings.keep_float)
    keep |= {part: keep.get(whole, "squares within a normalization") for part, whole in parts.items()}
    floats = without_qdq(model)
    there = {node.name for node in floats.graph.node}
    reasons = kept_fp32(floats, "fp16", {name: why for name, why in keep.items() if name in there})
    return {name: why for name, why in reasons.items() if why not in _NOT_CHOSEN}


def at_opset_17(
    model: onnx.ModelProto, newest: int = NEWEST_OPSET
) -> tuple[onnx.ModelProto, tuple[str, ...], dict[str, str]]:
    """The network at opset 17 or older, without operators that the parsers of 8.5 and 8.6 lack.

    Returns: the network, notes, and by name the new nodes that are parts of normalizations, and of which.
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
    kinds = {node.name: node.op_type for node in model.graph.node}
    inside = {part: whole for part, whole in parts.items() if kinds[whole].endswith("Normalization")}
    return new, tuple(notes), inside


# --- weights


def without_lone_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Weights whose layer's input is float, as float numbers: TensorRT 8 does not fuse a DequantizeLinear there."""
    by_edge = sites_by_edge(model)
    alone = [site for site in qdq_sites(model) if site.constant and site.edges and not _is_paired(site, by_edge)]
    if not alone:
        return model, ()
    outputs = {site.output for site in alone}
    new, constants = copy(model), constant_values(model)
    makers = {node.output[0]: node for node in model.graph.node if node.output}
    for site in alone:
        if site.params is None:
            raise ModelError(
                f"node {site.dequantize!r} (DequantizeLinear): expected weights in int8, uint8, int4 or fp8, got "
                "another type; store them in float"
            )
        node = makers[site.output]
        stored = constants[node.input[0]] if not site.quantize else None
        if stored is None:  # quantized in the graph: that rounding is the network's own
            continue
        values = dequantize_array(stored, site.params).astype(constants[node.input[1]].dtype)
        new.graph.initializer.append(numpy_helper.from_array(values, site.output))
    made = {tensor.name for tensor in new.graph.initializer} & outputs
    set_nodes_(new, [n for n in new.graph.node if not n.output or n.output[0] not in made])
    notes = (f"the weights of {len(made)} float layers are stored in float",) if made else ()
    return check(infer_shapes(drop_unused_initializers(new))), notes


def _is_paired(site: QdqSite, by_edge: Mapping[tuple[str, int], QdqSite]) -> bool:
    """Whether a layer that reads a quantized weight reads a quantized input too."""
    return any((name, 1 - index) in by_edge for name, index in site.edges if index in {0, 1})


def with_float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights that are stored as integers, as FP32 with a QuantizeLinear that gives those integers back, exactly.

    (q * s) / s is q within a few units of float32's last place: rounding gives the integer.
    """
    new = copy(model)
    constants = initializers(new)
    sites = {site.dequantize: site for site in qdq_sites(new) if site.constant and not site.quantize}
    taken = {*use_counts(new), *(o for n in new.graph.node for o in n.output), *(n.name for n in new.graph.node)}
    taken |= constants.keys()
    set_nodes_(new, [each for node in new.graph.node for each in _with_quantize(new, node, sites, taken)])
    return check(infer_shapes(drop_unused_initializers(new)))


def _with_quantize(
    model: onnx.ModelProto, node: onnx.NodeProto, sites: Mapping[str, QdqSite], taken: set[str]
) -> Iterator[onnx.NodeProto]:
    site = sites.get(node.name)
    if site is not None and site.params is not None and site.params.dtype == "int8":
        stored = numpy_helper.to_array(initializers(model)[node.input[0]])
        name = fresh(site.tensor, taken)
        values = dequantize_array(stored, site.params)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        quantized = fresh(f"{name}_quantized", taken)
        parameters = [node.input[1], _zero_point(model, node, stored.dtype, taken)]
        quantize = helper.make_node(
            "QuantizeLinear", [name, *parameters], [quantized], fresh(f"{name}_QuantizeLinear", taken)
        )
        quantize.attribute.extend(node.attribute)
        node.input[:] = [quantized, *parameters]
        yield quantize
    elif node.op_type in {"QuantizeLinear", "DequantizeLinear"} and is_standard(node):
        kind = np.dtype(np.int8) if len(node.input) < 3 or not node.input[2] else None
        if kind is not None:
            node.input[:] = [*node.input[:2], _zero_point(model, node, kind, taken)]
    yield node


def _zero_point(model: onnx.ModelProto, node: onnx.NodeProto, kind: np.dtype[np.generic], taken: set[str]) -> str:
    """The node's zero point, or a new one of zeros: the parser of 8.5 asks for it."""
    if len(node.input) > 2 and node.input[2]:
        return str(node.input[2])
    shape = numpy_helper.to_array(initializers(model)[node.input[1]]).shape
    name = fresh(f"{node.name}_zero_point", taken)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, kind), name))
    return name
