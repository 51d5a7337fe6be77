"""What the Q/DQ and the types of a finished network ask of every weighted layer: what an engine is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto

from avcompress.spec import LayerPlan, Precision
from engines.lint.layers import Layer, layers
from engines.lint.view import View, views
from engines.onnx_graph import infer_shapes, macs

_FP8 = frozenset({TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2})
_INT4 = frozenset({TensorProto.INT4, TensorProto.UINT4})
_CHOSEN = frozenset({"fp16", "bf16"})
_FLOATS: Mapping[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


def planned_layers(model: onnx.ModelProto, folder: Path | None = None) -> tuple[LayerPlan, ...]:
    """The precision that the graph itself asks of each weighted layer, in graph order.

    A layer is planned in INT8 where both operands come from a DequantizeLinear, whether or not a builder follows.

    Args:
        model: with named nodes.
        folder: of the files that hold its weights, if any do.
    """
    view = next(views(model, folder))
    counted = macs(infer_shapes(model))
    return tuple(_plan(view, layer, counted.get(layer.node.name, 0)) for layer in layers(view))


def with_precisions(plan: tuple[LayerPlan, ...], precisions: Mapping[str, str]) -> tuple[LayerPlan, ...]:
    """The plan where precisions are told apart from the graph, as for DLA: int8, fp16 or fp32 by node."""
    named: Mapping[str, Precision] = {"int8": "int8", "fp16": "fp16", "fp32": "fp32"}
    return tuple(
        LayerPlan(layer.name, layer.op, named[precisions[layer.name]], "told for this layer", layer.macs)
        if layer.name in precisions
        else layer
        for layer in plan
    )


def plan_in(dialect: str | None, plan: tuple[LayerPlan, ...], told: Mapping[str, str]) -> tuple[LayerPlan, ...]:
    """The plan as far as a dialect can tell it to the builder: weakly typed, which layers are FP16 is its own choice.

    Args:
        dialect: None where the graph tells all.
        plan: of the recipe.
        told: precisions by node that were told apart from the graph.
    """
    if dialect == "weak":
        plan = tuple(replace(layer, precision="float") if layer.precision in _CHOSEN else layer for layer in plan)
    return with_precisions(plan, told)


def _plan(view: View, layer: Layer, count: int) -> LayerPlan:
    precision, reason = _precision(view, layer)
    return LayerPlan(layer.node.name, layer.node.op_type, precision, reason, count)


def _precision(view: View, layer: Layer) -> tuple[Precision, str]:
    match layer.data.kind, layer.weight.kind:
        case "quantized", "quantized":
            return ("fp8" if layer.data.quant.dtype in _FP8 else "int8"), "Q/DQ on both operands"
        case _, "quantized" if layer.has_weight:
            return ("int4 weights" if layer.weight.quant.dtype in _INT4 else "int8 weights"), "Q/DQ on its weight only"
        case _:
            return _FLOATS.get(view.types.get(layer.node.output[0], 0), "float"), "no Q/DQ"
