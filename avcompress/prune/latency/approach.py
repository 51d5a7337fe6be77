"""Coming near a latency: each choice that is measured makes the prediction of the next one right where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from avcompress.prune.groups import Removed
from avcompress.prune.latency.predict import fit
from avcompress.prune.latency.solve import Problem, solve
from avcompress.prune.latency.table import Design, LatencyTable
from avcompress.prune.latency.widths import Widths, counts_of
from avcompress.prune.selection import lost

TRIES = 5
CLOSE = 0.02
"""A prediction that is no further off is right: another measurement of the same network differs by as much."""


class Try(NamedTuple):
    """What to remove, what that was predicted to take before anyone had measured it, and what it takes."""

    removed: Removed
    predicted_ms: float
    measured_ms: float


def approach(
    problem: Problem, table: LatencyTable, widths: Widths, goal_ms: float, measured_ms: Callable[[Removed], float]
) -> tuple[Try, ...]:
    """Choose, predict and measure, and fit the prediction to what was measured, until one was right.

    Args:
        problem: what there is to choose; its clock is that of the first choice.
        table: what was measured before, of all groups of the problem's coupling.
        widths: of the dense network.
        goal_ms: what the network may take.
        measured_ms: what it takes without some channels, in the milliseconds of the table.

    Raises RecipeError for a goal that no allowed widths keep.
    """
    tried: list[Try] = []
    designs: list[Design] = []
    while len(tried) < TRIES:
        removed = solve(problem, goal_ms)
        if any(removed == each.removed for each in tried):
            break
        counts = counts_of(problem.coupling, removed)
        tried.append(Try(removed, float(problem.clock(counts[None])[0]), measured_ms(removed)))
        if abs(tried[-1].measured_ms / tried[-1].predicted_ms - 1) <= CLOSE:
            break
        designs.append(Design(tuple(counts.tolist()), {}, 0.0, tried[-1].measured_ms))
        problem = replace(problem, clock=fit(table, widths, designs).total_ms)
    return tuple(tried)


def best_of(tried: Sequence[Try], problem: Problem, goal_ms: float) -> Try:
    """Of the tries that keep a goal the one that loses least importance; the fastest where none does."""
    keep = [each for each in tried if each.measured_ms <= (1 + CLOSE) * goal_ms]
    if keep:
        return min(keep, key=lambda each: lost(problem.scores, each.removed))
    return min(tried, key=lambda each: each.measured_ms)
