"""What was chosen, as stages of an ordinary recipe: `ptq` or `weight_only` with what stays float, and `cast`.

Every layer is named that is not in the quantized precision, so that the recipe says all, whatever the rules of a later
version are.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable

from avcompress.quant.placement.policy import EVERYTHING
from avcompress.recipe import Cast, Ptq, WeightOnly
from avcompress.search.assignment import Assignment, kinds_of, layers_in
from avcompress.search.formats import everything
from avcompress.search.groups import Layout
from avcompress.spec import Precision


def stages_for(
    layout: Layout, assignment: Assignment, settings: Ptq, cast: Cast | None = None
) -> tuple[Ptq | WeightOnly, Cast | None]:
    """The stages that put a network's groups into their precisions: the second one where there are 16 bits.

    Args:
        layout: of the network.
        assignment: of every group a precision that it may take.
        settings: how `ptq` quantizes, what it leaves float apart.
        cast: how what is float is cast; it is there then, also where no group is. Default: as a 16-bit precision asks.

    Raises RecipeError for several quantized or several 16-bit precisions.
    """
    quantized, half = kinds_of(assignment)
    if cast is None and half is not None:
        cast = Cast(kind="cast", format=half)
    first = quantizing(settings, quantized, float_layers(layout, assignment))
    return first, None if cast is None else casting(cast, fp32_layers(layout, assignment))


def float_layers(layout: Layout, assignment: Assignment) -> tuple[str, ...]:
    """The patterns of what is not quantized."""
    quantized, _ = kinds_of(assignment)
    return _named(layer for layer, group in layout.group_of.items() if assignment[group] != quantized)


def fp32_layers(layout: Layout, assignment: Assignment) -> tuple[str, ...]:
    """The patterns of what a cast leaves as it is."""
    return _named(layers_in(layout, assignment, "fp32"))


def quantizing(settings: Ptq, precision: Precision | None, floats: tuple[str, ...]) -> Ptq | WeightOnly:
    """The stage that quantizes to a precision all but the layers of these patterns; None: it has no layer."""
    keep = EVERYTHING.model_copy(update={"layers": floats})
    if precision == "int8 weights":
        return WeightOnly(kind="weight_only", keep_float=keep)
    chosen = everything(settings, settings.format if precision is None else "fp8" if precision == "fp8" else "int8")
    return chosen.model_copy(update={"keep_float": keep, "statistics": settings.statistics})


def casting(settings: Cast, fp32: tuple[str, ...]) -> Cast:
    """The stage that casts what is float, but for its own patterns and these."""
    return settings.model_copy(update={"keep_float": (*settings.keep_float, *fp32)})


def _named(layers: Iterable[str]) -> tuple[str, ...]:
    """Names as patterns that match nothing else."""
    return tuple(glob.escape(layer) for layer in layers)
