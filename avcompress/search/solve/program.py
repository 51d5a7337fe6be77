"""The best choice by an integer program: each group takes one option, and each pair of neighbours one pair of options.

With x[g, o] = 1 where group g takes option o, and y[l, o, p] = 1 where link l's groups take o and p:

    least   sum loss x                      (or sum ms x + sum ms y)
    subject to   sum_o x[g, o] = 1          for each group
                 sum_p y[l, o, p] = x[first, o],   sum_o y[l, o, p] = x[second, p]
                 sum ms x + sum ms y <= budget     (or sum loss x <= budget)
                 sum share x >= share

Where all x are whole numbers, so are all y: only x need branching. Without the budget the relaxation of a chain is
exact, and of networks nearly so.

Source: mixed precision as an integer program: HAWQ-V3, arXiv:2011.10680, section 3.4, here with conversions between
layers; the relaxation: Wainwright, Jaakkola, Willsky: MAP estimation via agreement on trees, 2005 (local polytope).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import coo_array

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
from avcompress.spec import DataError

_GAP = 1e-6


def solve_exactly(problem: Problem, budget: Budget, seconds: float = 60.0) -> Solution:
    """The choice that keeps a budget and loses, or takes, the least; of equal ones the same each time.

    Args:
        problem: what there is to choose.
        budget: of time or of loss.
        seconds: after which the best choice that was found is taken, `proven` False.

    Raises DataError for a budget that no choice keeps, or where none was found in time.
    """
    program = _Program(problem)
    first, second = (program.losses, program.times) if budget.ms is not None else (program.times, program.losses)
    limit = budget.ms - problem.fixed_ms if budget.ms is not None else budget.loss or 0.0
    found = program.least(first, seconds, budget.share, (second, limit))
    if found.x is None and found.status == _INFEASIBLE:
        best = program.least(second, seconds, budget.share)
        if best.x is None:
            raise refuse_share(problem, budget)
        raise refuse_unreachable(problem, budget, _figure(problem, program.choice(best.x), budget))
    if found.x is None:
        raise DataError(f"search: expected a choice in {seconds:g} s, got none ({found.message}); give more seconds")
    choice = program.choice(found.x)
    return Solution(choice, problem.loss(choice), problem.taken_ms(choice), proven=found.status == 0)


_INFEASIBLE = 2  # scipy.optimize.milp


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Nothing is printed meanwhile: SciPy's HiGHS has a line for its developers that no option turns off."""
    try:
        kept = os.dup(1)
    except OSError:  # closed: nobody hears it
        yield
        return
    sys.stdout.flush()
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # into nowhere, what C has kept in its buffer
        os.dup2(kept, 1)
        os.close(kept)


def _figure(problem: Problem, choice: Choice, budget: Budget) -> float:
    return problem.taken_ms(choice) if budget.ms is not None else problem.loss(choice)


@dataclass(frozen=True, eq=False)
class _Program:
    """The variables: options of all groups one after the other, then the pairs of all links, row by row."""

    problem: Problem

    @property
    def _starts(self) -> list[int]:
        """The first variable of each group, and after the last one."""
        return [0, *np.cumsum([len(own) for own in self.problem.options]).tolist()]

    @property
    def losses(self) -> Floats:
        """By variable."""
        pairs = sum(link.ms.size for link in self.problem.links)
        return np.concatenate([*self.problem.losses, np.zeros(pairs)])

    @property
    def shares(self) -> Floats:
        """By variable: what is quantized with it, of all multiply-accumulates."""
        own = self.problem.shares or tuple(np.zeros(len(each)) for each in self.problem.options)
        return np.concatenate([*own, np.zeros(sum(link.ms.size for link in self.problem.links))])

    @property
    def times(self) -> Floats:
        """By variable, ms."""
        return np.concatenate([*self.problem.ms, *(link.ms.ravel() for link in self.problem.links)])

    def least(
        self, costs: Floats, seconds: float, share: float, kept: tuple[Floats, float] | None = None
    ) -> OptimizeResult:
        """Make a sum least, with a share quantized; `kept`: another sum and what it may be at most."""
        constraints = [self._agreement()]
        upper = np.ones(len(costs))
        if share:
            constraints.append(LinearConstraint(self.shares[None], lb=share - SLACK))
        if kept is not None:
            within, upper = self._within(*kept)
            constraints.append(within)
        whole = np.zeros(len(costs))
        whole[: self._starts[-1]] = 1
        bounds = Bounds(0, upper)
        size = self._size(costs, bounds, constraints, seconds)
        options = {"mip_rel_gap": _GAP, "time_limit": seconds}
        with _silenced():
            return milp(costs / size, integrality=whole, bounds=bounds, constraints=constraints, options=options)

    def _within(self, weights: Floats, limit: float) -> tuple[LinearConstraint, Floats]:
        """A sum that stays within a limit; and by variable 0 for what exceeds it alone, which is taken by no choice.

        Counted from the least that every group and link adds, in parts of what is then left of the limit: HiGHS takes
        a constraint for kept that is off by 1e-6, and so would a small limit be beside a large loss.
        """
        sizes = [len(own) for own in self.problem.options] + [link.ms.size for link in self.problem.links]
        parts = np.split(weights, np.cumsum(sizes)[:-1])
        least = [float(part.min()) for part in parts]
        rounding = np.finfo(float).eps * float(np.abs(least).sum())
        left = limit + SLACK * abs(limit) + rounding - sum(least)
        above = np.concatenate([part - lowest for part, lowest in zip(parts, least, strict=True)])
        may_be = above <= left
        unit = left if left > 0 else 1.0
        return LinearConstraint(np.where(may_be, above, 0.0)[None] / unit, ub=left / unit), may_be.astype(float)

    @staticmethod
    def _size(costs: Floats, bounds: Bounds, constraints: list[LinearConstraint], seconds: float) -> float:
        """What the sum is about, by its relaxation: HiGHS stops within 1e-6 of it, too, in numbers, not in parts."""
        largest = max(float(np.abs(costs).max()), float(np.finfo(float).tiny))
        options = {"time_limit": seconds}
        with _silenced():
            relaxed = milp(costs / largest, bounds=bounds, constraints=constraints, options=options)
        # Losses of more digits than this are no longer told apart by anybody.
        return largest * max(abs(float(relaxed.fun or 0.0)), 1e-6)

    def _agreement(self) -> LinearConstraint:
        """One option for each group, and pairs that agree with them."""
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        right: list[float] = []
        starts = self._starts
        for start, end in pairwise(starts):
            rows += [len(right)] * (end - start)
            columns += range(start, end)
            values += [1.0] * (end - start)
            right.append(1.0)
        pair = starts[-1]
        for link in self.problem.links:
            numbers = np.arange(pair, pair + link.ms.size).reshape(link.ms.shape)
            pair += link.ms.size
            for group, lines in ((link.first, numbers), (link.second, numbers.T)):
                for option, line in enumerate(lines):
                    rows += [len(right)] * (len(line) + 1)
                    columns += [*line.tolist(), starts[group] + option]
                    values += [1.0] * len(line) + [-1.0]
                    right.append(0.0)
        matrix = coo_array((values, (rows, columns)), shape=(len(right), pair)).tocsr()
        return LinearConstraint(matrix, right, right)

    def choice(self, values: Floats) -> Choice:
        """The option of each group that a solution takes."""
        starts = self._starts
        return tuple(int(np.argmax(values[a:b])) for a, b in pairwise(starts))
