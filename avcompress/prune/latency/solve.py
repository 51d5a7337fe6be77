"""The least importance lost for a latency: which channels to take from which group.

Each group's channels go in the order of their importance, in steps that leave aligned widths. Of all steps, of any
length, the one that loses the least importance for each saved millisecond is taken, until the budget is kept; then what
turns out not to be needed is given back, the most important first, and pairs of steps are exchanged while that helps.
A step that crosses no block of the runtime's kernels saves nothing, and is never taken for its own sake.

Source: the greedy bound of the multiple-choice knapsack, Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, ch. 11;
latency-aware pruning as a knapsack: HALP, arXiv:2110.10811.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avcompress.prune.groups import Coupling, Removed
from avcompress.prune.latency.widths import Counts, Floats
from avcompress.spec import Array, RecipeError

Clock = Callable[[Counts], float]
"""The latency, in ms, of removing so many channels from each group."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What there is to choose.

    Attributes:
        coupling: the groups.
        scores: the importance of each channel by group name, >= 0.
        clock: what a choice takes.
        align: widths that remain are multiples of it; a group narrower than that is left alone.
        floor: the share of each group's channels that stays at least.
    """

    coupling: Coupling
    scores: Mapping[str, Array]
    clock: Clock
    align: int = 8
    floor: float = 0.1


def solve(problem: Problem, budget_ms: float) -> Removed:
    """Choose what to remove so that the clock keeps the budget; raises RecipeError when no allowed widths do."""
    choices = [_counts(len(group.channels), problem) for group in problem.coupling.groups]
    losses = [_losses(problem.scores[group.name]) for group in problem.coupling.groups]
    search = _Search(problem.clock, choices, losses)
    fewest = np.array([options[-1] for options in choices])
    if problem.clock(fewest) > budget_ms:
        raise RecipeError(
            f"prune: expected widths that take {budget_ms:.3g} ms, got {problem.clock(fewest):.3g} ms for the "
            "narrowest allowed; raise the deadline, or lower align or floor"
        )
    counts = search.exchanged(search.restored(search.greedy(budget_ms), budget_ms), budget_ms)
    return {
        group.name: tuple(sorted(np.argsort(problem.scores[group.name], kind="stable")[:count].tolist()))
        for group, count in zip(problem.coupling.groups, counts.tolist(), strict=True)
        if count
    }


def _counts(channels: int, problem: Problem) -> Sequence[int]:
    """How many channels may be removed from a group of so many, ascending from none."""
    least = max(1, int(np.ceil(channels * problem.floor)))
    widths = [width for width in range(problem.align, channels, problem.align) if width >= least]
    return [0, *(channels - width for width in reversed(widths))]


def _losses(scores: Array) -> Floats:
    """The importance lost by removing the n least important channels, for n from 0."""
    return np.concatenate([[0.0], np.cumsum(np.sort(np.asarray(scores, dtype=np.float64)))])


@dataclass(frozen=True, eq=False)
class _Search:
    clock: Clock
    choices: Sequence[Sequence[int]]
    losses: Sequence[Floats]

    def greedy(self, budget_ms: float) -> Counts:
        """Remove, step by step, where the least importance goes for a millisecond."""
        counts = np.zeros(len(self.choices), dtype=np.int64)
        now = self.clock(counts)
        while now > budget_ms:
            price, counts, now = min(self._prices(counts, now), key=lambda step: step[0])
            if not np.isfinite(price):
                counts = np.array([options[-1] for options in self.choices])
                now = self.clock(counts)
        return counts

    def _prices(self, counts: Counts, now: float) -> Iterator[tuple[float, Counts, float]]:
        """Every larger removal from one group: importance for each saved ms, and what it leads to."""
        yield np.inf, counts, now
        for group, options in enumerate(self.choices):
            for count in options:
                if count > counts[group]:
                    there = counts.copy()
                    there[group] = count
                    then = self.clock(there)
                    if then < now:
                        lost = self.losses[group][count] - self.losses[group][counts[group]]
                        yield lost / (now - then), there, then

    def restored(self, counts: Counts, budget_ms: float) -> Counts:
        """Give back what is not needed, the most important first."""
        while True:
            better = [there for there in self._returns(counts) if self.clock(there) <= budget_ms]
            if not better:
                return counts
            counts = min(better, key=self._lost)

    def _returns(self, counts: Counts) -> Iterator[Counts]:
        for group, options in enumerate(self.choices):
            for count in options:
                if count < counts[group]:
                    there = counts.copy()
                    there[group] = count
                    yield there

    def exchanged(self, counts: Counts, budget_ms: float) -> Counts:
        """Take one more step in one group and give back in others, while that loses less."""
        improved = True
        while improved:
            improved = False
            for there, _ in self._nexts(counts):
                candidate = self.restored(there, budget_ms) if self.clock(there) <= budget_ms else there
                if self.clock(candidate) <= budget_ms and self._lost(candidate) < self._lost(counts) * (1 - 1e-9):
                    counts, improved = candidate, True
                    break
        return counts

    def _nexts(self, counts: Counts) -> Iterator[tuple[Counts, int]]:
        """The next larger removal of every group."""
        for group, options in enumerate(self.choices):
            larger = [count for count in options if count > counts[group]]
            if larger:
                there = counts.copy()
                there[group] = larger[0]
                yield there, group

    def _lost(self, counts: Counts) -> float:
        return float(sum(losses[count] for losses, count in zip(self.losses, counts.tolist(), strict=True)))
