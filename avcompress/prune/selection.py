"""Which channels go: the least important, so many of each group or of all together, and of widths that a device likes.

Pure, and the same for the same scores: of equally important channels the later one goes, of equally important groups'
the later group's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise
from math import ceil, gcd
from typing import Literal, NamedTuple

import numpy as np

from avcompress.prune.groups import Coupling, Group, Removed
from avcompress.prune.importance.scores import Scores, check_scores
from avcompress.spec import Array, RecipeError

ByLayer = tuple[tuple[str, int], ...]
"""Alignments by patterns of layers' names; of several that fit a layer the first counts."""


@dataclass(frozen=True)
class Selection:
    """How many channels go, and from where.

    Attributes:
        ratio: the share of channels to remove, 0 <= ratio < 1.
        scope: local: of each group; global: of all groups together, wherever they are least important.
        alignment: how many channels of a layer's output are left is a multiple of this.
        by_layer: another alignment, by patterns of layers' names; the first that fits counts.
        floor: the least share of each group that stays.
        protected: patterns of layers' names; a group that one of them computes stays whole.
        narrow: what happens to a group that is narrower than the alignment: it stays whole, or is pruned without it.
    """

    ratio: float
    scope: Literal["local", "global"] = "local"
    alignment: int = 1
    by_layer: ByLayer = ()
    floor: float = 0.1
    protected: tuple[str, ...] = ()
    narrow: Literal["keep", "prune"] = "keep"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise RecipeError(
                f"prune.ratio: expected 0 <= ratio < 1, got {self.ratio}; 1 would empty every layer, give the share of "
                "channels to remove"
            )
        if not 0 <= self.floor <= 1 - self.ratio + 1e-9:
            raise RecipeError(
                f"prune.floor: expected at most {1 - self.ratio:g}, which the ratio of {self.ratio:g} leaves, got "
                f"{self.floor:g}; lower one of the two"
            )
        wrong = next((n for n in (self.alignment, *(n for _, n in self.by_layer)) if n < 1), None)
        if wrong is not None:
            raise RecipeError(f"prune.alignment: expected 1 or more, got {wrong}; 1 allows every width")


class _Row(NamedTuple):
    """A group that may be pruned.

    Attributes:
        order: its channels, the least important first.
        scores: in that order.
        widths: how many channels may be left, in falling order; the first is all.
    """

    name: str
    order: Array
    scores: Array
    widths: tuple[int, ...]

    def least(self, left: int) -> tuple[int, ...]:
        """The channels that go when so many are left, in ascending order."""
        return tuple(sorted(int(index) for index in self.order[: len(self.order) - left]))


def select(coupling: Coupling, scores: Scores, rule: Selection) -> dict[str, tuple[int, ...]]:
    """Choose what to remove, by group; groups of which nothing goes are left out, as are those without scores.

    Local: of each group the share that is nearest to the ratio among the widths that alignment and floor allow; of two
    equally near the wider. Global: groups lose their least important channels in steps of the alignment, all steps in
    the order of their mean score, until the share of all channels that are gone is nearest to the ratio.

    Raises ModelError for scores that are not finite or do not fit the network, RecipeError for a ratio that would empty
    a layer, an alignment that is larger than a layer it is given for, or than all of them, and for patterns that fit no
    layer.
    """
    check_scores(coupling, scores)
    _refuse_unmatched(coupling, "protected", rule.protected)
    _refuse_unmatched(coupling, "by_layer", (pattern for pattern, _ in rule.by_layer))
    groups = [g for g in coupling.groups if g.name in scores and not _named(g, rule.protected)]
    each = values_per_channel(coupling)
    rows = [_row(group, np.asarray(scores[group.name]), rule, each[group.name]) for group in groups]
    _refuse_wide(groups, rows, rule, each)
    left = _local(rows, rule) if rule.scope == "local" else _global(rows, rule.ratio)
    return {row.name: row.least(left[row.name]) for row in rows if left[row.name] < len(row.order)}


def to_widths(coupling: Coupling, scores: Scores, widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Remove the least important channels of each group until so many are left; other groups stay whole.

    Raises ModelError for scores that do not fit, RecipeError for a width that a group cannot have.
    """
    check_scores(coupling, scores)
    found = {}
    for group in coupling.groups:
        width = len(group.channels)
        left = widths.get(group.name, width)
        if not 1 <= left <= width:
            raise RecipeError(
                f"prune: expected 1 to {width} channels of layer {group.name!r} to be left, got {left}; mend the width"
            )
        if left < width:
            found[group.name] = _row(group, np.asarray(scores[group.name]), Selection(0)).least(left)
    return found


def lost(scores: Scores, removed: Removed) -> float:
    """The sum of the scores of what is removed."""
    return float(sum(np.asarray(scores[name])[list(channels)].sum() for name, channels in removed.items()))


def _named(group: Group, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in (group.name, *group.producers))


def _row(group: Group, scores: Array, rule: Selection, each: int = 1) -> _Row:
    """`each`: how many values of a tensor are one channel, as `values_per_channel` has it."""
    order = least_first(scores)
    return _Row(group.name, order, scores[order], _widths(group, rule, each))


def least_first(scores: Array) -> Array:
    """The channels in the order in which they go; of equally important ones the later goes first."""
    return np.asarray(len(scores) - 1 - np.argsort(scores[::-1], kind="stable"))


def _widths(group: Group, rule: Selection, each: int) -> tuple[int, ...]:
    count, step = len(group.channels), _step(group, rule, each)
    if step > count:
        if rule.narrow == "keep":
            return (count,)
        step = 1
    least = ceil(round(rule.floor * count, 6))
    return (count, *(width for width in range((count - 1) // step * step, 0, -step) if width >= least))


def _step(group: Group, rule: Selection, each: int) -> int:
    """By how many channels a width changes for its values to be a multiple of the alignment."""
    own = (n for pattern, n in rule.by_layer if _named(group, (pattern,)))
    alignment = next(own, rule.alignment)
    return alignment // gcd(alignment, each)


def steps_of(coupling: Coupling, alignment: int, by_layer: ByLayer = ()) -> dict[str, int]:
    """By group, of how many channels a width is a multiple for its values to be one of the alignment.

    Raises RecipeError for a pattern that fits no layer, or an alignment that is larger than a layer it is given for.
    """
    rule = Selection(0, alignment=alignment, by_layer=by_layer)
    each = values_per_channel(coupling)
    _refuse_unmatched(coupling, "by_layer", (pattern for pattern, _ in by_layer))
    _refuse_wide_by_layer(coupling.groups, rule, each)
    return {group.name: _step(group, rule, each[group.name]) for group in coupling.groups}


def values_per_channel(coupling: Coupling) -> dict[str, int]:
    """By group, how many values of a tensor are one channel, of those tensors that have fewest.

    Several are one in grouped convolutions, in the heads of an attention, and before pixels are shuffled.
    """
    owners = {atom: name for name, atoms in coupling.atoms.items() for atom in atoms}
    found = dict.fromkeys((group.name for group in coupling.groups), 0)
    for labels in coupling.labels.values():
        for atom, count in zip(*np.unique(labels, return_counts=True), strict=True):
            name = owners.get(int(atom))
            if name is not None:
                found[name] = min(found[name], int(count)) or int(count)
    return {name: each or 1 for name, each in found.items()}


def _local(rows: Iterable[_Row], rule: Selection) -> dict[str, int]:
    def left(row: _Row) -> int:
        wanted = (1 - rule.ratio) * len(row.order)
        return min(row.widths, key=lambda width: (round(abs(width - wanted), 6), -width))

    return {row.name: left(row) for row in rows}


def _global(rows: list[_Row], ratio: float) -> dict[str, int]:
    """Take steps in the order of their mean score while that brings the share nearer to the ratio.

    Scores rise within a group, so that its steps come in their order.
    """
    left = {row.name: len(row.order) for row in rows}
    missing = ratio * sum(left.values())
    for step in sorted(_steps(rows), key=lambda step: (step.score, -step.row, -step.left)):
        if round(abs(missing - step.size), 6) >= round(abs(missing), 6):
            break
        missing -= step.size
        left[rows[step.row].name] = step.left
    return left


class _Step(NamedTuple):
    """The next channels that a group loses: their mean score, the row, how many are left then, how many they are."""

    score: float
    row: int
    left: int
    size: int


def _steps(rows: Iterable[_Row]) -> Iterator[_Step]:
    for index, row in enumerate(rows):
        for before, after in pairwise(row.widths):
            part = row.scores[len(row.order) - before : len(row.order) - after]
            yield _Step(float(part.mean()), index, after, before - after)


def _refuse_wide(groups: list[Group], rows: Iterable[_Row], rule: Selection, each: Mapping[str, int]) -> None:
    """An alignment that was meant for a layer has to fit it; the general one has to fit one."""
    _refuse_wide_by_layer(groups, rule, each)
    widest = max(groups, key=lambda group: len(group.channels) * each[group.name], default=None)
    none = rule.narrow == "keep" and all(len(row.widths) == 1 for row in rows)
    if widest is not None and none and rule.alignment > len(widest.channels) * each[widest.name]:
        raise _too_wide(widest, rule.alignment, each, "no layer is wider; choose a smaller one")


def _refuse_wide_by_layer(groups: Iterable[Group], rule: Selection, each: Mapping[str, int]) -> None:
    for group in groups:
        own = next((n for pattern, n in rule.by_layer if _named(group, (pattern,))), 1)
        if own > len(group.channels) * each[group.name]:
            raise _too_wide(group, own, each, "give it a smaller one")


def _too_wide(group: Group, alignment: int, each: Mapping[str, int], remedy: str) -> RecipeError:
    width = len(group.channels) * each[group.name]
    return RecipeError(
        f"prune.alignment: expected at most the {width} channels of layer {group.name!r}, got {alignment}; {remedy}"
    )


def _refuse_unmatched(coupling: Coupling, key: str, patterns: Iterable[str]) -> None:
    fixed = [layer.layer for layer in coupling.fixed]
    for pattern in patterns:
        known = any(_named(group, (pattern,)) for group in coupling.groups)
        if not known and not any(fnmatchcase(layer, pattern) for layer in fixed):
            names = [name for group in coupling.groups for name in group.producers]
            near = ", ".join(get_close_matches(pattern.strip("*"), names, n=3, cutoff=0.0))
            raise RecipeError(
                f"prune.{key}: expected names or patterns of layers, got {pattern!r}, which fits none; the nearest are "
                f"{near}"
            )
