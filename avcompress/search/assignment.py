"""What a search decides: the precision of every group."""

from __future__ import annotations

from collections.abc import Mapping

from avcompress.search.groups import Layout
from avcompress.spec import Precision, RecipeError
from engines.precision import FloatFormat

Assignment = Mapping[str, Precision]
"""The precision of each group, by the group's name."""


def layers_in(layout: Layout, assignment: Assignment, *precisions: Precision) -> tuple[str, ...]:
    """The layers that get one of these precisions, in the order of their groups."""
    return tuple(layer for group in layout.groups if assignment[group.name] in precisions for layer in group.layers)


def share_of_macs(layout: Layout, assignment: Assignment, *precisions: Precision) -> float:
    """The part of all multiply-accumulates that is done in one of these precisions; 0 where none are known."""
    total = sum(group.macs for group in layout.groups)
    own = sum(group.macs for group in layout.groups if assignment[group.name] in precisions)
    return own / total if total else 0.0


QUANTIZED: tuple[Precision, ...] = ("int8", "fp8", "int8 weights")
"""The precisions that are stored as Q/DQ."""
COMPUTED: tuple[Precision, ...] = ("int8", "fp8")
"""Those of them that are computed in."""
HALVES: tuple[FloatFormat, ...] = ("fp16", "bf16")


def has_one_of_each_kind(assignment: Assignment) -> bool:
    """Whether a recipe can say it: one stage quantizes a network, and one casts what is float."""
    used = set(assignment.values())
    return all(len(used.intersection(kind)) <= 1 for kind in (QUANTIZED, HALVES))


def kinds_of(assignment: Assignment) -> tuple[Precision | None, FloatFormat | None]:
    """The quantized and the 16-bit precision of an assignment; raises RecipeError where there are several of one kind.

    See `has_one_of_each_kind`: a search offers one of each kind at a time.
    """
    used = set(assignment.values())
    quantized = [each for each in QUANTIZED if each in used]
    halves = [each for each in HALVES if each in used]
    for several in (quantized, halves):
        if len(several) > 1:
            raise RecipeError(
                f"search: expected one of {' and '.join(several)} beside fp32, got both: no recipe mixes them; search "
                "with one at a time, and take the better result"
            )
    return next(iter(quantized), None), next(iter(halves), None)
