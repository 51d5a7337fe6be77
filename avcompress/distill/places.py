"""Where each loss looks: at the networks' outputs, or at taps inside them."""

from __future__ import annotations

from torch import nn

from avcompress.distill.pairs import OUTPUTS, Pair, find_pairs
from avcompress.distill.taps import find_taps
from avcompress.recipe_distill import Itself, Labels, Localisation, Loss, Mutual, Response, Soft, Taps
from avcompress.spec import RecipeError


def find_places(settings: Loss, student: nn.Module, teacher: nn.Module) -> tuple[Pair, ...]:
    """Where a loss looks; raises ModelError for a tap that is not there."""
    match settings:
        case Labels():
            return ()
        case Soft() | Response() | Mutual():
            return (OUTPUTS,)
        case Localisation(form="distribution", taps=taps, scores=scores):
            return _boxes_and_scores(student, teacher, taps, scores)
        case Localisation():
            return (OUTPUTS,)
        case Itself(deep=deep, shallow=shallow):
            return _depths(student, deep, shallow)
        case _:
            return find_pairs(student, teacher, settings.taps)


def _boxes_and_scores(student: nn.Module, teacher: nn.Module, taps: Taps, scores: Taps) -> tuple[Pair, ...]:
    if not taps:
        raise RecipeError("losses: expected taps of the bins' logits for form: distribution, got none; name them")
    bins, classes = find_pairs(student, teacher, taps), find_pairs(student, teacher, scores) if scores else ()
    if classes and len(classes) != len(bins):
        raise RecipeError(
            f"losses: expected as many tensors of scores as of bins, {len(bins)}, got {len(classes)}; name both"
        )
    return (*bins, *classes)


def _depths(student: nn.Module, deep: str, shallow: tuple[str, ...]) -> tuple[Pair, ...]:
    (teaches, *more) = find_taps(student, deep, "student")
    if more:
        raise RecipeError(f"losses: deep: expected one layer, got {1 + len(more)} that {deep!r} fits; name one of them")
    learn = [name for pattern in shallow for name in find_taps(student, pattern, "student") if name != teaches]
    if not learn:
        raise RecipeError(f"losses: shallow: expected another layer than {teaches!r}, got none; name one before it")
    return tuple(Pair(name, teaches) for name in learn)
