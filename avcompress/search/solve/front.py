"""What the model offers between the fastest choice and the most careful one: for each loss the least time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from avcompress.search.solve.problem import Budget, Problem, Solution
from avcompress.search.solve.program import solve_exactly

Solve = Callable[[Problem, Budget], Solution]


def front(problem: Problem, count: int = 24, solve: Solve = solve_exactly, share: float = 0.0) -> tuple[Solution, ...]:
    """The least time for budgets of loss, so many in steps of equal ratio; the fastest first.

    Args:
        problem: what there is to choose.
        count: of budgets between the ends.
        solve: finds each choice.
        share: of the multiply-accumulates that is quantized in all of them, at least.

    Losses of groups differ by decades, and so do the budgets: from that of the fastest choice down to the least that a
    change of one group adds. Equal choices are there once, and none that is slower than another and loses more.
    """
    least = solve(problem, Budget(ms=problem.most_ms, share=share)).loss if share else _least(problem)
    most = sum(float(own.max()) for own in problem.losses)
    steps = [float(step) for own in problem.losses for step in own - own.min() if step > 0]
    budgets = [least]
    if most - least > 0 and steps:  # else nothing is left to choose, as where a share needs all there is
        budgets = [most, *(least + np.geomspace(most - least, min(steps), count)).tolist(), least]
    return unbeaten(solve(problem, Budget(loss=budget, share=share)) for budget in budgets)


def _least(problem: Problem) -> float:
    return sum(float(own.min()) for own in problem.losses)


def unbeaten(solutions: Iterable[Solution]) -> tuple[Solution, ...]:
    """Those that no other one beats in time without losing more, the fastest first; none that loses NaN."""
    kept: list[Solution] = []
    known = (each for each in solutions if not np.isnan(each.loss))
    for each in sorted(known, key=lambda solution: (solution.ms, solution.loss)):
        if not kept or each.loss < kept[-1].loss:
            kept.append(each)
    return tuple(kept)
