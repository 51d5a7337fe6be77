"""The least importance lost for a latency: which channels to take from which group.

Each group's channels go in the order of their importance, in steps that leave aligned widths. Of all steps, of any
length, the one that loses the least importance for each saved millisecond is taken, until the budget is kept; then what
turns out not to be needed is given back, and while it helps one group gives a step for another's. A step that crosses
no block of the runtime's kernels saves nothing, and is never taken for its own sake.

Source: the greedy bound of the multiple-choice knapsack, Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, ch. 11;
latency-aware pruning as a knapsack: HALP, arXiv:2110.10811.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avcompress.prune.groups import Coupling, Removed
from avcompress.prune.latency.widths import Counts, Floats
from avcompress.prune.selection import least_first
from avcompress.spec import Array, RecipeError

Clock = Callable[[Counts], Floats]
"""The latencies, (n,) in ms, of n choices, (n, groups): how many channels each takes from each group."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What there is to choose.

    Attributes:
        coupling: the groups.
        scores: the importance of each channel by group name, >= 0; a group without stays whole.
        clock: what choices take.
        steps: by group name, of how many channels widths that remain are multiples; a group that is not wider than that
            is left alone.
        floor: the share of each group's channels that stays at least.
    """

    coupling: Coupling
    scores: Mapping[str, Array]
    clock: Clock
    steps: Mapping[str, int]
    floor: float = 0.1


def solve(problem: Problem, budget_ms: float) -> Removed:
    """Choose what to remove so that the clock keeps the budget; raises RecipeError when no allowed widths do."""
    choices = [
        _counts(len(group.channels), problem.steps[group.name], problem.floor) if group.name in problem.scores else [0]
        for group in problem.coupling.groups
    ]
    losses = [_losses(problem.scores.get(group.name, np.zeros(0))) for group in problem.coupling.groups]
    search = _Search(problem.clock, choices, losses, budget_ms)
    narrowest = search.ms(search.fewest)
    if narrowest > budget_ms:
        raise RecipeError(
            f"prune: expected widths that take {budget_ms:.3g} ms, got {narrowest:.3g} ms for the narrowest allowed; "
            "raise the deadline, or lower align or floor"
        )
    counts = search.exchanged(search.restored(search.greedy()))
    return {
        group.name: tuple(sorted(least_first(np.asarray(problem.scores[group.name]))[:count].tolist()))
        for group, count in zip(problem.coupling.groups, counts.tolist(), strict=True)
        if count
    }


def _counts(channels: int, step: int, floor: float) -> Sequence[int]:
    """How many channels may be removed from a group of so many, ascending from none."""
    least = max(1, int(np.ceil(channels * floor)))
    widths = [width for width in range(step, channels, step) if width >= least]
    return [0, *(channels - width for width in reversed(widths))]


def _losses(scores: Array) -> Floats:
    """The importance lost by removing the n least important channels, for n from 0."""
    return np.concatenate([[0.0], np.cumsum(np.sort(np.asarray(scores, dtype=np.float64)))])


@dataclass(frozen=True, eq=False)
class _Search:
    clock: Clock
    choices: Sequence[Sequence[int]]
    losses: Sequence[Floats]
    budget_ms: float

    @property
    def fewest(self) -> Counts:
        """The narrowest widths that are allowed."""
        return np.array([options[-1] for options in self.choices])

    def ms(self, counts: Counts) -> float:
        """What one choice takes."""
        return float(self.clock(counts[None])[0])

    def lost(self, many: Counts) -> Floats:
        """(n,): the importance that each choice loses."""
        return np.asarray(sum(losses[many[:, group]] for group, losses in enumerate(self.losses)))

    def greedy(self) -> Counts:
        """Remove, step by step, where the least importance goes for a millisecond."""
        counts = np.zeros(len(self.choices), dtype=np.int64)
        now = self.ms(counts)
        while now > self.budget_ms:
            there = self._moves(counts, lambda new, old: new > old)
            saved = now - self.clock(there)
            prices = np.where(
                saved > 0, (self.lost(there) - self.lost(counts[None])) / np.maximum(saved, 1e-12), np.inf
            )
            best = int(np.argmin(prices))
            counts = there[best] if np.isfinite(prices[best]) else self.fewest
            now = self.ms(counts)
        return counts

    def restored(self, counts: Counts) -> Counts:
        """Give back what is not needed, the most important first."""
        while len(there := self._moves(counts, lambda new, old: new < old)):
            there = there[self.clock(there) <= self.budget_ms]
            if not len(there):
                break
            counts = there[int(np.argmin(self.lost(there)))]
        return counts

    def exchanged(self, counts: Counts) -> Counts:
        """Take the next step in one group and give one back in another, while that loses less."""
        while True:
            pairs = self._exchanges(counts)
            losses = self.lost(pairs)
            better = losses < self.lost(counts[None])[0] * (1 - 1e-9)
            pairs, losses = pairs[better], losses[better]
            kept = self.clock(pairs) <= self.budget_ms if len(pairs) else better[:0]
            if not kept.any():
                return counts
            counts = self.restored(pairs[kept][int(np.argmin(losses[kept]))])

    def _moves(self, counts: Counts, allowed: Callable[[int, int], bool]) -> Counts:
        """(n, groups): every choice that differs from `counts` in one group."""
        moves = [
            (group, count)
            for group, options in enumerate(self.choices)
            for count in options
            if allowed(count, int(counts[group]))
        ]
        there = np.tile(counts, (len(moves), 1))
        there[np.arange(len(moves)), [group for group, _ in moves]] = [count for _, count in moves]
        return there

    def _exchanges(self, counts: Counts) -> Counts:
        """(n, groups): the next step taken in one group and up to all of another's given back."""
        nexts = {
            group: min(count for count in options if count > counts[group])
            for group, options in enumerate(self.choices)
            if options[-1] > counts[group]
        }
        backs = [
            (group, count) for group, options in enumerate(self.choices) for count in options if count < counts[group]
        ]
        pairs = [(taken, given, count) for taken in nexts for given, count in backs if given != taken]
        there = np.tile(counts, (len(pairs), 1))
        for row, (taken, given, count) in enumerate(pairs):
            there[row, taken] = nexts[taken]
            there[row, given] = count
        return there
