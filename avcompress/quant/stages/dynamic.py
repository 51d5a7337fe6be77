"""Dynamic quantization: weights stored in INT8, activations quantized to the range of the image at hand."""

from __future__ import annotations

from dataclasses import replace

from onnx import numpy_helper

from avcompress.quant.params import weight_scales
from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import place
from avcompress.quant.plan import as_precision, plan_line, prepare
from avcompress.recipe import Dynamic
from avcompress.spec import Artifact
from engines.onnx_graph import initializers
from engines.qdq import insert_dynamic_qdq, insert_qdq


def quantize_dynamic(artifact: Artifact, settings: Dynamic) -> Artifact:
    """Quantize the weights per channel, and put each input of a quantized layer on 256 levels as it comes.

    The input's range is that of the whole tensor, asymmetric, widened to hold zero: ONNX DynamicQuantizeLinear, uint8.
    No image is needed. `qparams` of the result are those of the weights.

    Args:
        artifact: a float onnx.ModelProto.
        settings: which layers stay float.

    Raises RecipeError for a pattern that matches no layer, ModelError.
    """
    model = prepare(artifact.model)
    placement = place(graph_view(model), settings.keep_float, "cpu")
    constants = initializers(model)
    qparams = {
        site.tensor: weight_scales(numpy_helper.to_array(constants[site.tensor]), site.axis)
        for site in placement.weights
    }
    weights = [edge for site in placement.weights for edge in site.edges]
    inputs = [(layer.name, 0) for layer in placement.layers if layer.precision != "float"]
    layers = as_precision(placement.layers, "int8 dynamic", "weight is quantized, and input as it comes")
    return replace(
        artifact,
        model=insert_dynamic_qdq(insert_qdq(model, weights, qparams), inputs),
        reference=model,
        qparams=qparams,
        layers=layers,
        log=(*artifact.log, plan_line("dynamic", layers)),
    )
