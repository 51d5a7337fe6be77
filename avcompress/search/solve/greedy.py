"""A good choice step by step: of all single changes the one that costs the least for what it saves.

From every group where it loses least, the change is taken that loses the least for each saved millisecond, conversions
counted, until the budget of time is kept; then whatever lost more than was needed is taken back, what loses most first.
With a budget of loss, changes are taken as long as it is kept. A single change never saves the conversions within a run
of neighbours: so the same is done from all groups in one precision, for each, and the best of these choices is taken.

Source: the greedy bound of the multiple-choice knapsack, Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, ch. 11.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from avcompress.search.solve.problem import (
    SLACK,
    Budget,
    Choice,
    Floats,
    Problem,
    Solution,
    refuse_share,
    refuse_unreachable,
)
from avcompress.spec import Precision


def solve_greedily(problem: Problem, budget: Budget) -> Solution:
    """A choice that keeps a budget; raises DataError where single changes come to none."""
    search = _Greedy(problem, budget.share)
    found = [search.within(start, budget) for start in _starts(problem)]
    solutions = [Solution(choice, problem.loss(choice), problem.taken_ms(choice), proven=False) for choice in found]
    if budget.ms is not None:
        limit, kept, least = budget.ms, _ms, _loss
    else:
        limit, kept, least = budget.loss or 0.0, _loss, _ms
    wide = [each for each in solutions if problem.share(each.choice) >= budget.share - SLACK]
    if not wide:
        raise refuse_share(problem, budget)
    able = [solution for solution in wide if kept(solution) <= limit]
    if not able:
        raise refuse_unreachable(problem, budget, min(map(kept, wide)))
    return min(able, key=least)


def _ms(solution: Solution) -> float:
    return solution.ms


def _loss(solution: Solution) -> float:
    return solution.loss


def _starts(problem: Problem) -> list[Choice]:
    """Every group where it loses least, then all in one precision; those that may not take it where they lose least.

    Where a share is to be quantized, also every group where most of it is.
    """
    exact = tuple(int(np.argmin(own)) for own in problem.losses)
    precisions = dict.fromkeys(precision for own in problem.options for precision in own)
    widest = [tuple(int(np.argmax(own)) for own in problem.shares)] if problem.shares else []
    return [exact, *(_uniform(problem, exact, precision) for precision in precisions), *widest]


def _uniform(problem: Problem, exact: Choice, precision: Precision) -> Choice:
    pairs = zip(problem.options, exact, strict=True)
    return tuple(own.index(precision) if precision in own else least for own, least in pairs)


class _Change(NamedTuple):
    """Another option for one group: what it adds to the loss and to the time."""

    group: int
    option: int
    loss: float
    ms: float


class _Greedy:
    def __init__(self, problem: Problem, share: float) -> None:
        self.problem, self.share = problem, share
        self.links: list[list[tuple[int, Floats]]] = [[] for _ in problem.names]
        for link in problem.links:
            self.links[link.first].append((link.second, link.ms))
            self.links[link.second].append((link.first, link.ms.T))

    def within(self, choice: Choice, budget: Budget) -> Choice:
        """Change a choice until it keeps the budget, and then for the better; it may stay outside."""
        if budget.ms is not None:
            return self._restored(self._faster(choice, until_ms=budget.ms), budget.ms)
        return self._faster(self._milder(choice, budget.loss or 0.0), most_loss=budget.loss or 0.0)

    def _faster(self, choice: Choice, until_ms: float = -np.inf, most_loss: float = np.inf) -> Choice:
        """Take what saves time, the least loss for a millisecond first."""
        while self.problem.taken_ms(choice) > until_ms:
            room = most_loss - self.problem.loss(choice)
            useful = [change for change in self._changes(choice) if change.ms < 0 and change.loss <= room]
            if not useful:
                break
            choice = _changed(choice, min(useful, key=lambda change: _price(change.loss, change.ms)))
        return choice

    def _milder(self, choice: Choice, most_loss: float) -> Choice:
        """Take what loses less, the least time for a loss first."""
        while self.problem.loss(choice) > most_loss:
            useful = [change for change in self._changes(choice) if change.loss < 0]
            if not useful:
                break
            choice = _changed(choice, min(useful, key=lambda change: _price(change.ms, change.loss)))
        return choice

    def _restored(self, choice: Choice, most_ms: float) -> Choice:
        """Take back what is not needed, what loses most first."""
        while True:
            room = most_ms - self.problem.taken_ms(choice)
            useful = [change for change in self._changes(choice) if change.loss < 0 and change.ms <= room]
            if not useful:
                return choice
            choice = _changed(choice, min(useful, key=lambda change: (change.loss, change.ms)))

    def _changes(self, choice: Choice) -> Iterator[_Change]:
        for group, now in enumerate(choice):
            losses, times = self.problem.losses[group], self.problem.ms[group].copy()
            for other, cost in self.links[group]:
                times += cost[:, choice[other]]
            for option in range(len(losses)):
                if option != now and self._stays_wide(choice, group, option):
                    yield _Change(group, option, float(losses[option] - losses[now]), float(times[option] - times[now]))

    def _stays_wide(self, choice: Choice, group: int, option: int) -> bool:
        """Whether a change leaves enough quantized, or takes nothing away."""
        if not self.share:
            return True
        own = self.problem.shares[group]
        change = float(own[option] - own[choice[group]])
        return change >= 0 or self.problem.share(choice) + change >= self.share - SLACK


def _changed(choice: Choice, change: _Change) -> Choice:
    return (*choice[: change.group], change.option, *choice[change.group + 1 :])


def _price(cost: float, gain: float) -> tuple[float, float]:
    """What is paid for what is gained, a gain being below zero; of what costs nothing, the largest gain comes first."""
    return (cost / -gain, gain) if cost > 0 else (0.0, gain)
