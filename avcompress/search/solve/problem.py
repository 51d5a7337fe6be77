"""The choice of precisions in numbers: what each option loses and takes, and what passing values on takes.

Losses add up: what two groups lose together is the sum of what each loses alone. So do times. Both are models; what is
chosen by them is measured afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avcompress.search.assignment import COMPUTED, Assignment
from avcompress.search.groups import OUTSIDE, Layout, Passage
from avcompress.search.latency.table import PrecisionTable
from avcompress.search.sensitivity.values import Sensitivity
from avcompress.spec import DataError, Precision

Floats = NDArray[np.float64]
Choice = tuple[int, ...]
"""The option of each group."""
SLACK = 1e-9
"""Of a budget or a share, in its parts: what a sum of floats may be off by."""


@dataclass(frozen=True, eq=False)
class Link:
    """Two groups that values pass between, and what their conversion takes.

    Attributes:
        first, second: indices of the groups.
        ms: (options of the first, options of the second), >= 0.
    """

    first: int
    second: int
    ms: Floats


@dataclass(frozen=True, eq=False)
class Problem:
    """What there is to choose.

    Attributes:
        names: of the groups.
        options: the precisions of each group, one at least.
        losses: of each group, (options,): what it loses in each precision. A metric may gain: below 0.
        ms: of each group, (options,): what it takes.
        links: a pair of groups once at most.
        fixed_ms: what the network takes beside.
        shares: of each group, (options,): the part of the network's multiply-accumulates that is quantized with it;
            empty where nobody asks for it.
    """

    names: tuple[str, ...]
    options: tuple[tuple[Precision, ...], ...]
    losses: tuple[Floats, ...]
    ms: tuple[Floats, ...]
    links: tuple[Link, ...] = ()
    fixed_ms: float = 0.0
    shares: tuple[Floats, ...] = ()

    def share(self, choice: Choice) -> float:
        """The part of the multiply-accumulates that a choice quantizes; 0 where nobody asks for it."""
        return float(sum(own[option] for own, option in zip(self.shares, choice, strict=False)))

    @property
    def most_ms(self) -> float:
        """No choice takes more."""
        own = sum(float(times.max()) for times in self.ms)
        return own + sum(float(link.ms.max()) for link in self.links) + self.fixed_ms

    def loss(self, choice: Choice) -> float:
        """What a choice loses."""
        return float(sum(own[option] for own, option in zip(self.losses, choice, strict=True)))

    def taken_ms(self, choice: Choice) -> float:
        """What a choice takes, conversions included."""
        own = sum(own[option] for own, option in zip(self.ms, choice, strict=True))
        return float(own + sum(link.ms[choice[link.first], choice[link.second]] for link in self.links) + self.fixed_ms)

    def assignment(self, choice: Choice) -> Assignment:
        """The precision of each group by its name."""
        return {name: own[option] for name, own, option in zip(self.names, self.options, choice, strict=True)}

    def choice(self, assignment: Assignment) -> Choice:
        """The options that an assignment takes; raises ValueError for one that is none."""
        return tuple(own.index(assignment[name]) for name, own in zip(self.names, self.options, strict=True))


@dataclass(frozen=True)
class Budget:
    """What must be kept, and by leaving one of the two out, what is made least.

    Attributes:
        ms: the most that a choice may take; the loss is made least.
        loss: the most that it may lose; the time is made least.
        share: of the multiply-accumulates that is quantized, at least.
    """

    ms: float | None = None
    loss: float | None = None
    share: float = 0.0

    def __post_init__(self) -> None:
        if (self.ms is None) == (self.loss is None):
            raise ValueError("expected a budget of either milliseconds or loss, got both or none")


@dataclass(frozen=True)
class Solution:
    """A choice that keeps a budget.

    Attributes:
        choice: of each group.
        loss, ms: as the problem predicts them.
        proven: no choice is better, to 1e-6 of what is made least.
    """

    choice: Choice
    loss: float
    ms: float
    proven: bool


def problem_of(
    layout: Layout,
    choices: Mapping[str, Sequence[Precision]],
    sensitivity: Sensitivity,
    table: PrecisionTable,
) -> Problem:
    """Put together what was measured of a network.

    Args:
        layout: the network's.
        choices: the precisions that each group may take, by its name.
        sensitivity: of every group in each of them.
        table: of the times of every layer in each of them.

    Raises DataError for a group or layer whose loss or time in one of its precisions is not known.
    """
    options = tuple(tuple(choices[group.name]) for group in layout.groups)
    pairs = tuple(zip(layout.groups, options, strict=True))
    parts = _Parts(layout, options, table)
    return Problem(
        names=tuple(group.name for group in layout.groups),
        options=options,
        losses=tuple(np.array([sensitivity.loss(group.name, each) for each in own]) for group, own in pairs),
        ms=tuple(
            np.array([sum(table.layer_ms(layer, each) for layer in group.layers) for each in own]) + ends
            for (group, own), ends in zip(pairs, parts.ends(), strict=True)
        ),
        links=parts.links(),
        fixed_ms=table.others_ms,
        shares=quantized_shares(layout, options),
    )


def quantized_shares(layout: Layout, options: Sequence[Sequence[Precision]]) -> tuple[Floats, ...]:
    """What a Problem has as `shares`."""
    total = sum(group.macs for group in layout.groups) or 1
    return tuple(
        np.array([group.macs / total if each in COMPUTED else 0.0 for each in own])
        for group, own in zip(layout.groups, options, strict=True)
    )


@dataclass(frozen=True, eq=False)
class _Parts:
    """What conversions take: at the network's ends, and between groups."""

    layout: Layout
    options: tuple[tuple[Precision, ...], ...]
    table: PrecisionTable

    def _costs(self, passage: Passage) -> Floats:
        """(options of the source, options of the target); outside there is FP32 alone."""
        sources, targets = (self._options(name) for name in (passage.source, passage.target))
        return np.array([[self.table.convert_ms(of, to, passage.values) for to in targets] for of in sources])

    def _options(self, name: str) -> tuple[Precision, ...]:
        return ("fp32",) if name == OUTSIDE else self.options[self._index[name]]

    @property
    def _index(self) -> Mapping[str, int]:
        return {group.name: number for number, group in enumerate(self.layout.groups)}

    def ends(self) -> list[Floats]:
        """By group, (options,): of what comes from outside, and goes there."""
        found = [np.zeros(len(own)) for own in self.options]
        for passage in self.layout.passages:
            if OUTSIDE in {passage.source, passage.target}:
                found[self._index[passage.source or passage.target]] += self._costs(passage).ravel()
        return found

    def links(self) -> tuple[Link, ...]:
        """Of each two groups that values pass between; those that never take time are left out."""
        found: dict[tuple[int, int], Floats] = {}
        for passage in self.layout.passages:
            if OUTSIDE not in {passage.source, passage.target}:
                first, second = self._index[passage.source], self._index[passage.target]
                costs = self._costs(passage)
                if first > second:
                    first, second, costs = second, first, costs.T
                found[first, second] = found.get((first, second), 0.0) + costs
        return tuple(Link(*pair, costs) for pair, costs in found.items() if costs.any())


def refuse_unreachable(problem: Problem, budget: Budget, best: float) -> DataError:
    """For a budget that not even the best choice keeps."""
    asked, what = (budget.ms, "ms") if budget.ms is not None else (budget.loss, "of loss")
    beside = f" with {100 * budget.share:.3g} % of the MACs quantized" if budget.share else ""
    return DataError(
        f"search: expected precisions that keep {asked:.4g} {what}{beside}, got {best:.4g} at best of "
        f"{len(problem.names)} groups; raise the budget, allow more precisions, or make the network smaller"
    )


def refuse_share(problem: Problem, budget: Budget) -> DataError:
    """For a share of the multiply-accumulates that cannot be quantized whatever is lost."""
    most = sum(float(own.max()) for own in problem.shares)
    return DataError(
        f"search: expected {100 * budget.share:.3g} % of the MACs quantized, at most {100 * most:.3g} % can be; ask "
        "for less, or exclude less"
    )
