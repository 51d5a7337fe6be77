"""From the choices of a model to one that keeps its limits by measurement.

A model's losses have another unit than the metric, and neither losses nor times quite add up; but what loses less in
the model nearly always loses less. So of the model's front the fastest choice that keeps the limits is looked for by
halving: one measurement a step. Between it and the next faster one, which breaks its floor, single groups are set back,
again by halving. Where the model was wrong about the order, neighbours on the fast side are tried after that. Whatever
is measured is in the result, also where nothing keeps the limits.

On a few hundred images a metric differs by chance by more than a floor allows. How far the answers move is told far
more exactly, and what the metric loses grows with it: so all choices together tell what a movement costs, and one is
believed to keep its floor where both its own metric says so and its movement does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from avcompress.search.assignment import Assignment, has_one_of_each_kind
from avcompress.search.solve.front import unbeaten
from avcompress.search.solve.problem import Problem, Solution

Term = Literal["loss", "ms"]


@dataclass(frozen=True)
class Outcome:
    """What a network was measured to lose, in the metric, and takes.

    Attributes:
        loss: of the metric.
        ms: what counts: measured, or where a target's times are known, by them.
        moved: how far its answers are from the float network's, squared, so that losses grow with it; 0 where unknown.
        here_ms: measured on this machine, where `ms` is another's.
    """

    loss: float
    ms: float
    moved: float = 0.0
    here_ms: float | None = None


@dataclass(frozen=True)
class Price:
    """What the metric loses for a movement of 1, and the standard error of that; infinite of too few outcomes."""

    value: float
    error: float

    @property
    def most(self) -> float:
        """What is believed of it where it counts: one error above, once there is one."""
        return self.value + (self.error if np.isfinite(self.error) else 0.0)


FREE = Price(0.0, 0.0)


@dataclass(frozen=True)
class Limits:
    """What must be kept: the most that the metric may fall, and a deadline, if there is one.

    Attributes:
        by_movement: whether the price of a movement counts beside the metric itself.
    """

    loss: float
    ms: float = float("inf")
    by_movement: bool = True

    def believed(self, outcome: Outcome, price: Price) -> float:
        """What the metric is taken to have lost; NaN where anything is."""
        priced = price.most * outcome.moved if self.by_movement else outcome.loss
        return float(np.maximum(outcome.loss, priced))

    def broken(self, outcome: Outcome, price: Price = FREE) -> tuple[Term, ...]:
        """The limits that an outcome does not keep, by its own metric or by its movement's price; NaN keeps none."""
        kept = self.believed(outcome, price) <= self.loss
        loss: tuple[Term, ...] = () if kept else ("loss",)
        return loss if outcome.ms <= self.ms else (*loss, "ms")


@dataclass(frozen=True)
class Tried:
    """A choice that was measured.

    Attributes:
        assignment: of each group its precision.
        predicted: by the model.
        outcome: by measurement.
        broken: the limits that it does not keep.
    """

    assignment: Assignment
    predicted: Solution
    outcome: Outcome
    broken: tuple[Term, ...]


def price_of(outcomes: Iterable[Outcome]) -> Price:
    """What the metric loses for a movement of 1, by all outcomes together; 0 where it gains, or nothing moves.

    Least squares through the origin: a metric is off by as much where answers hardly move, so that what moves them most
    tells most. One outcome tells no price apart from its own noise, two hardly: the error is infinite then.
    """
    known = [each for each in outcomes if np.isfinite((each.loss, each.moved)).all()]
    moved = sum(each.moved**2 for each in known)
    if not moved:
        return FREE
    slope = sum(each.loss * each.moved for each in known) / moved
    if len(known) < _FEWEST:
        return Price(max(0.0, slope), np.inf)
    off = sum((each.loss - slope * each.moved) ** 2 for each in known) / (len(known) - 1)
    return Price(max(0.0, slope), float(np.sqrt(off / moved)))


_FEWEST = 3
"""Outcomes that tell an error."""


@dataclass(frozen=True)
class Verified:
    """All that was measured, in order.

    Attributes:
        tried: each choice.
        price: of a movement of 1, in the metric, by all of them.
        limits: that they are held to.
    """

    tried: tuple[Tried, ...]
    price: Price
    limits: Limits

    @property
    def best(self) -> Tried | None:
        """The fastest that keeps all limits, as measured; None where none does."""
        kept = [each for each in self.tried if not each.broken]
        return min(kept, key=lambda each: (each.outcome.ms, each.outcome.loss), default=None)

    @property
    def nearest(self) -> Tried:
        """The best one, or where there is none, of those that break the fewest limits the one that misses by least."""
        return self.best or min(self.tried, key=self._off)

    def _off(self, tried: Tried) -> tuple[int, bool, float]:
        """How many limits are broken, rather the deadline than the metric's, and by how much."""
        lost = "loss" in tried.broken
        lost_by = self.limits.believed(tried.outcome, self.price)
        return len(tried.broken), lost, lost_by if lost else tried.outcome.ms

    @property
    def binding(self) -> tuple[Term, ...]:
        """The limits that stand in the way where nothing keeps all of them."""
        return self.nearest.broken


def verify(
    problem: Problem,
    offered: Sequence[Solution],
    limits: Limits,
    evaluate: Callable[[Assignment], Outcome],
    tries: int = 8,
) -> Verified:
    """Measure what a model offers until the fastest choice that keeps the limits is found, or tries run out.

    Args:
        problem: whose choices they are.
        offered: the fastest first, each losing less than the one before it in the model, as `solve.front` has them.
        limits: to be kept.
        evaluate: builds a network and measures it.
        tries: measurements, one at least.
    """
    search = _Search(problem, limits, evaluate, tries)
    # The fastest may be good enough, and tells best what a movement costs, but not alone.
    if search.keeps_loss(offered[0]) and search.found[offered[0]].moved:
        for solution in (offered[-1], offered[len(offered) // 2]):
            search.keeps_loss(solution)
    if search.keeps_loss(offered[0]):
        return search.verified()
    fast, careful = search.halve(offered, fast=0)
    if fast is not None and careful is not None:
        search.halve(between(problem, fast, careful))
    # What kept its loss when it was measured may not, by what is known of the price now.
    for solution in offered if careful is None else offered[offered.index(careful) :]:
        if search.verified().best is None:
            search.keeps_loss(solution)
    # Faster ones, beside those that were measured: the model may have had their order wrong.
    for solution in reversed(offered[: None if careful is None else offered.index(careful)]):
        search.keeps_loss(solution)
    return search.verified()


def between(problem: Problem, fast: Solution, careful: Solution) -> tuple[Solution, ...]:
    """From a fast choice to a careful one by single groups, what loses most first: those that lie between, by time."""
    differ = [group for group, option in enumerate(fast.choice) if option != careful.choice[group]]
    differ.sort(key=lambda group: float(problem.losses[group][careful.choice[group]] - _own(problem, fast, group)))
    choice, found = list(fast.choice), []
    for group in differ[:-1]:
        choice[group] = careful.choice[group]
        now = tuple(choice)
        found.append(Solution(now, problem.loss(now), problem.taken_ms(now), proven=False))
    return unbeaten(
        each
        for each in found
        if fast.ms < each.ms < careful.ms and has_one_of_each_kind(problem.assignment(each.choice))
    )


def _own(problem: Problem, solution: Solution, group: int) -> float:
    return float(problem.losses[group][solution.choice[group]])


class _Search:
    """What was measured so far, and how much more may be."""

    def __init__(self, problem: Problem, limits: Limits, evaluate: Callable[[Assignment], Outcome], tries: int) -> None:
        self.problem, self.limits, self.evaluate, self.tries = problem, limits, evaluate, tries
        self.found: dict[Solution, Outcome] = {}

    def keeps_loss(self, solution: Solution) -> bool:
        """By measurement; what could not be measured any more does not."""
        if solution not in self.found:
            if len(self.found) >= self.tries:
                return False
            self.found[solution] = self.evaluate(self.problem.assignment(solution.choice))
        return "loss" not in self.limits.broken(self.found[solution], price_of(self.found.values()))

    def halve(self, offered: Sequence[Solution], fast: int = -1) -> tuple[Solution | None, Solution | None]:
        """The slowest that was measured not to keep its loss, and the next one, which does; None where there is none.

        Nothing before the first is known to keep its loss, `fast` of them does not; all behind the last is taken to.
        """
        careful = len(offered)
        while careful - fast > 1 and len(self.found) < self.tries:
            middle = (fast + careful) // 2
            fast, careful = (fast, middle) if self.keeps_loss(offered[middle]) else (middle, careful)
        return offered[fast] if fast >= 0 else None, offered[careful] if careful < len(offered) else None

    def verified(self) -> Verified:
        """All of it, judged by the price that all of it gives."""
        price = price_of(self.found.values())
        return Verified(
            tuple(
                Tried(self.problem.assignment(each.choice), each, outcome, self.limits.broken(outcome, price))
                for each, outcome in self.found.items()
            ),
            price,
            self.limits,
        )
