"""Weight-only quantization: weights stored in INT8 or INT4, all arithmetic in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx
from onnx import numpy_helper

from avcompress.quant.params import weight_scales
from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import Placement, place
from avcompress.quant.plan import as_precision, plan_line, prepare
from avcompress.recipe import WeightOnly
from avcompress.spec import Array, Artifact, LayerPlan, Precision, QDtype, QuantParams, RecipeError
from engines.onnx_graph import initializers
from engines.qdq import insert_qdq

_REASON = "only its weight is quantized"
_MATRIX_PRODUCTS = frozenset({"Gemm", "MatMul"})


def quantize_weights(artifact: Artifact, settings: WeightOnly) -> Artifact:
    """Store each weight as integers with a DequantizeLinear; scales per output channel, or per block of inputs.

    Blocks are cut in the weights of matrix products only: ONNX has them for every tensor, but engines only there. An
    odd number of weights is stored in INT8 where INT4 is asked for: TensorRT takes INT4 in pairs.

    Args:
        artifact: a float onnx.ModelProto.
        settings: the format, and which layers stay float.

    Raises RecipeError for a block size that does not divide a layer's inputs, or has nothing to act on.
    """
    model = prepare(artifact.model)
    placement = place(graph_view(model), settings.keep_float, "cpu")
    qparams = _qparams(model, placement, settings)
    edges = [edge for site in placement.weights for edge in site.edges]
    layers = _planned(placement, qparams, settings)
    quantized = insert_qdq(model, edges, qparams)
    sizes = f"{_megabytes(model)} -> {_megabytes(quantized)} MB"
    return replace(
        artifact,
        model=quantized,
        reference=model,
        qparams=qparams,
        layers=layers,
        log=(*artifact.log, f"{plan_line('weight_only', layers)}; constants {sizes}"),
    )


def _planned(placement: Placement, qparams: Mapping[str, QuantParams], settings: WeightOnly) -> tuple[LayerPlan, ...]:
    precision: Precision = "int4 weights" if settings.format == "int4" else "int8 weights"
    layers = as_precision(placement.layers, precision, _REASON)
    wide = {
        name
        for site in placement.weights
        for name, _ in site.edges
        if qparams[site.tensor].dtype == "int8" and settings.format == "int4"
    }
    return tuple(
        replace(layer, precision="int8 weights", reason=f"{_REASON}: an odd number of values, INT4 goes in pairs")
        if layer.name in wide
        else layer
        for layer in layers
    )


def _qparams(model: onnx.ModelProto, placement: Placement, settings: WeightOnly) -> dict[str, QuantParams]:
    kinds = {node.name: node.op_type for node in model.graph.node}
    constants = initializers(model)
    found: dict[str, QuantParams] = {}
    for site in placement.weights:
        weight = numpy_helper.to_array(constants[site.tensor])
        name = site.edges[0][0]
        blocks = settings.block_size if kinds[name] in _MATRIX_PRODUCTS else None
        found[site.tensor] = _scales(name, weight, site.axis, settings.model_copy(update={"block_size": blocks}))
    if settings.block_size is not None and all(params.block_size is None for params in found.values()):
        raise RecipeError(
            f"weight_only.block_size: expected a matrix product to cut into blocks of {settings.block_size}, got a "
            "network without one; leave block_size out: convolutions have a scale for each channel"
        )
    return found


def _scales(name: str, weight: Array, axis: int | None, settings: WeightOnly) -> QuantParams:
    dtype: QDtype = "int8" if weight.size % 2 else settings.format
    if settings.block_size is None or axis is None:
        return weight_scales(weight, axis, dtype)
    inputs = weight.shape[1 - axis]
    if inputs % settings.block_size:
        raise RecipeError(
            f"weight_only.block_size: expected a divisor of the {inputs} inputs of layer {name!r}, got "
            f"{settings.block_size}; choose another, or name the layer in keep_float.layers"
        )
    return weight_scales(weight, 1 - axis, dtype, settings.block_size)


def _megabytes(model: onnx.ModelProto) -> str:
    """What the constants take as they are stored: two INT4 values a byte."""
    return f"{sum(tensor.ByteSize() for tensor in model.graph.initializer) / 1e6:.2f}"
