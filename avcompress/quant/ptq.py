"""Post-training quantization of an ONNX network to symmetric INT8 Q/DQ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import onnx
from onnx import numpy_helper

from avcompress.quant.observe import observe
from avcompress.quant.placement import Placement, place
from avcompress.quant.placement_onnx import graph_view
from avcompress.recipe import Ptq
from avcompress.spec import Artifact, Batch, LayerPlan, QuantParams
from calibration.ranges import channel_range, range_from, symmetric_int8
from engines.onnx_graph import check, fold_batch_norms, infer_shapes, initializers, insert_qdq


def quantize(artifact: Artifact, settings: Ptq, batches: Iterable[Batch]) -> Artifact:
    """Quantize a float onnx.ModelProto: fold batch norms, choose sites, calibrate, insert Q/DQ.

    `batches` are the calibration images, as the network takes them.
    Raises RecipeError, DataError or ModelError; equal inputs give a model of equal bytes.
    """
    model = check(infer_shapes(fold_batch_norms(artifact.model)))
    placement = place(graph_view(model), settings.keep_float)
    histograms = observe(model, (site.tensor for site in placement.activations), batches)
    activations = {name: symmetric_int8(range_from(hist, settings.ranges)) for name, hist in histograms.items()}
    qparams = {**activations, **_weight_qparams(model, placement)}
    edges = [edge for site in (*placement.activations, *placement.weights) for edge in site.edges]
    return replace(
        artifact,
        model=insert_qdq(model, edges, qparams),
        qparams=qparams,
        layers=placement.layers,
        log=(*artifact.log, summary(placement.layers)),
    )


def _weight_qparams(model: onnx.ModelProto, placement: Placement) -> dict[str, QuantParams]:
    """The largest magnitude of each output channel on 127."""
    constants = initializers(model)
    return {
        site.tensor: symmetric_int8(channel_range(numpy_helper.to_array(constants[site.tensor]), site.axis or 0))
        for site in placement.weights
    }


def summary(layers: tuple[LayerPlan, ...]) -> str:
    """One line: how many weighted layers are INT8, their share of the MACs, and why the others are not."""
    int8 = [layer for layer in layers if layer.precision == "int8"]
    total = sum(layer.macs for layer in layers)
    share = f", {100 * sum(layer.macs for layer in int8) / total:.0f} % of MACs" if total else ""
    unknown = sum(layer.macs == 0 for layer in layers)
    share += f" (unknown for {unknown})" if unknown else ""
    reasons = Counter(layer.reason for layer in layers if layer.precision == "float")
    floats = "; float: " + ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) if reasons else ""
    return f"ptq: {len(int8)} of {len(layers)} layers in INT8{share}{floats}"
