"""What the stages that choose a format share: the network they start from, and the plan of its weighted layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import onnx

from avcompress.spec import LayerPlan, Precision
from engines.onnx_graph import check, fold_batch_norms, infer_shapes


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float network as it is calibrated and quantized: batch norms folded, shapes stated; raises ModelError."""
    return check(infer_shapes(fold_batch_norms(model)))


def as_precision(layers: Iterable[LayerPlan], precision: Precision, reason: str) -> tuple[LayerPlan, ...]:
    """A placement's plan in another precision: what it quantizes gets this one, what it leaves float stays float."""
    return tuple(
        layer if layer.precision == "float" else replace(layer, precision=precision, reason=reason) for layer in layers
    )


def plan_line(stage: str, layers: tuple[LayerPlan, ...]) -> str:
    """One line: how many layers are quantized, to what, their share of the MACs, and why the others are not."""
    done = [layer for layer in layers if layer.precision != "float"]
    kinds = ", ".join(sorted({layer.precision for layer in done}))
    formats = f" in {kinds.replace('int', 'INT').replace('fp', 'FP')}" if kinds else ""
    total = sum(layer.macs for layer in layers)
    share = f", {100 * sum(layer.macs for layer in done) / total:.0f} % of MACs" if total else ""
    unknown = sum(layer.macs == 0 for layer in layers)
    share += f" (unknown for {unknown})" if unknown else ""
    reasons = Counter(layer.reason for layer in layers if layer.precision == "float")
    floats = "; float: " + ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) if reasons else ""
    return f"{stage}: {len(done)} of {len(layers)} layers{formats}{share}{floats}"
