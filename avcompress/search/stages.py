"""What was chosen, as stages of an ordinary recipe: `ptq` or `weight_only` with what stays float, and `cast`.

Every layer is named that is not in the quantized precision, so that the recipe says all, whatever the rules of a later
version are.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable

from avcompress.quant.placement.policy import EVERYTHING
from avcompress.recipe import Cast, KeepFloat, Ptq, Stage, WeightOnly
from avcompress.search.assignment import Assignment, kinds_of, layers_in
from avcompress.search.formats import everything
from avcompress.search.groups import Layout
from avcompress.spec import Precision


def stages_for(layout: Layout, assignment: Assignment, settings: Ptq) -> tuple[Stage, ...]:
    """The stages that put a network's groups into their precisions; none where all are FP32.

    Args:
        layout: of the network.
        assignment: of every group a precision that it may take.
        settings: how `ptq` quantizes, what it leaves float apart.

    Raises RecipeError for several quantized or several 16-bit precisions.
    """
    quantized, half = kinds_of(assignment)
    stages: list[Stage] = []
    if quantized is not None:
        keep = _keep(layer for layer in _layers(layout) if layer not in layers_in(layout, assignment, quantized))
        stages.append(_quantizing(quantized, keep, settings))
    if half is not None:
        stages.append(Cast(kind="cast", format=half, keep_float=_named(layers_in(layout, assignment, "fp32"))))
    return tuple(stages)


def _quantizing(precision: Precision, keep: KeepFloat, settings: Ptq) -> Ptq | WeightOnly:
    if precision == "int8 weights":
        return WeightOnly(kind="weight_only", keep_float=keep)
    chosen = everything(settings, "fp8" if precision == "fp8" else "int8")
    return chosen.model_copy(update={"keep_float": keep, "statistics": settings.statistics})


def _layers(layout: Layout) -> Iterable[str]:
    return (layer for group in layout.groups for layer in group.layers)


def _keep(layers: Iterable[str]) -> KeepFloat:
    return EVERYTHING.model_copy(update={"layers": _named(layers)})


def _named(layers: Iterable[str]) -> tuple[str, ...]:
    """Names as patterns that match nothing else."""
    return tuple(glob.escape(layer) for layer in layers)
