"""The plan of every weighted layer, for stages that decide one: renaming it, and saying it in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from avcompress.spec import LayerPlan, Precision


def as_precision(layers: Iterable[LayerPlan], precision: Precision) -> tuple[LayerPlan, ...]:
    """A placement's plan in another precision: what it quantizes gets this one, what it leaves float stays float."""
    return tuple(
        layer if layer.precision == "float" else replace(layer, precision=precision, reason=precision)
        for layer in layers
    )


def plan_line(stage: str, layers: tuple[LayerPlan, ...]) -> str:
    """One line: how many layers are quantized, to what, their share of the MACs, and why the others are not."""
    done = [layer for layer in layers if layer.precision != "float"]
    kinds = ", ".join(sorted({layer.precision for layer in done})) or "none"
    total = sum(layer.macs for layer in layers)
    share = f", {100 * sum(layer.macs for layer in done) / total:.0f} % of MACs" if total else ""
    unknown = sum(layer.macs == 0 for layer in layers)
    share += f" (unknown for {unknown})" if unknown else ""
    reasons = Counter(layer.reason for layer in layers if layer.precision == "float")
    floats = "; float: " + ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) if reasons else ""
    return f"{stage}: {len(done)} of {len(layers)} layers: {kinds}{share}{floats}"
