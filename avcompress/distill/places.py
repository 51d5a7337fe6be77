"""Where each loss looks, at the networks' outputs or at taps inside them, and what it needs of the tensors there."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from avcompress.distill.pairs import OUTPUTS, Fit, Pair, find_pairs, shape_at
from avcompress.distill.taps import Record, find_taps
from avcompress.recipe_distill import (
    Attention,
    ChannelWise,
    Features,
    Itself,
    Labels,
    Localisation,
    Loss,
    Masked,
    Mutual,
    Response,
    Soft,
)
from avcompress.spec import ModelError, RecipeError


class Places(NamedTuple):
    """The pairs of taps that a loss compares, and the teacher's taps that say how much each counts."""

    pairs: tuple[Pair, ...]
    scores: tuple[str, ...] = ()


def find_places(settings: Loss, student: nn.Module, teacher: nn.Module) -> Places:
    """Where a loss looks; raises ModelError for a tap that is not there."""
    match settings:
        case Labels():
            return Places(())
        case Localisation(form="distribution"):
            return _bins(student, teacher, settings)
        case Soft() | Response() | Mutual() | Localisation():
            return Places((OUTPUTS,))
        case Itself(deep=deep, shallow=shallow):
            return Places(_depths(student, deep, shallow))
        case _:
            return Places(find_pairs(student, teacher, settings.taps))


def _bins(student: nn.Module, teacher: nn.Module, settings: Localisation) -> Places:
    if not settings.taps:
        raise RecipeError("losses: expected taps of the bins' logits for form: distribution, got none; name them")
    pairs = find_pairs(student, teacher, settings.taps)
    scores = tuple(name for pattern in settings.scores for name in find_taps(teacher, pattern, "teacher"))
    if scores and len(scores) != len(pairs):
        raise RecipeError(
            f"losses: expected as many tensors of scores as of bins, {len(pairs)}, got {len(scores)}; name both"
        )
    return Places(pairs, scores)


def _depths(student: nn.Module, deep: str, shallow: tuple[str, ...]) -> tuple[Pair, ...]:
    (teaches, *more) = find_taps(student, deep, "student")
    if more:
        raise RecipeError(f"losses: deep: expected one layer, got {1 + len(more)} that {deep!r} fits; name one of them")
    learn = [name for pattern in shallow for name in find_taps(student, pattern, "student") if name != teaches]
    if not learn:
        raise RecipeError(f"losses: shallow: expected another layer than {teaches!r}, got none; name one before it")
    return tuple(Pair(name, teaches) for name in learn)


def fit_of(settings: Loss, pair: Pair) -> Fit:
    """How alike the two tensors of a pair have to be for a loss."""
    match settings:
        case Features() | Itself(by="features"):
            return Fit(channels=False, adapted=True)
        case Masked():
            return Fit(maps=True, channels=False, adapted=True)
        case Attention() | Itself():
            return Fit(maps=True, channels=False)
        case ChannelWise():
            return Fit(maps=True, channels=pair == OUTPUTS, adapted=pair != OUTPUTS)
        case Localisation() | Response():
            return Fit(size=True)
        case _:
            return Fit()


def decodes(settings: Loss) -> bool:
    """Whether a loss takes a detector's output apart."""
    match settings:
        case Response() | Mutual(by=Response()) | Localisation(form="giou" | "l1"):
            return True
        case _:
            return False


def check_bins(settings: Localisation, pairs: tuple[Pair, ...], scores: tuple[str, ...], teacher: Record) -> None:
    """Raise ModelError unless the taps are 4 * bins channels wide, and scores are of the same cells."""
    if settings.form != "distribution":
        return
    shapes = [shape_at(teacher, pair.teacher, "teacher") for pair in pairs]
    for pair, shape in zip(pairs, shapes, strict=True):
        if len(shape) < 3 or shape[1] != 4 * settings.bins:
            raise ModelError(f"{pair}: expected (N, 4 * {settings.bins} bins, ...), got {shape}; mend taps or bins")
    for name, shape in zip(scores, shapes, strict=False):
        found = shape_at(teacher, name, "teacher")
        if (found[0], *found[2:]) != (shape[0], *shape[2:]):
            raise ModelError(
                f"teacher: tap {name!r}: expected scores (N, C, {', '.join(map(str, shape[2:]))}) of the cells of the "
                f"bins, got {found}; name them in the same order"
            )
