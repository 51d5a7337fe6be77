"""Pruning for a latency: the channels whose loss costs least for a speed-up or a deadline, held against the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx

from avcompress.float_network import deployed
from avcompress.recipe import Engine
from avcompress.recipe_prune import Prune
from avcompress.running.choosing import Chooser, concerned
from avcompress.running.targeting import engine_of
from avcompress.spec import Track
from avcompress.state import step_key
from validation.machine import runtime_versions
from validation.report import LatencyGoal

if TYPE_CHECKING:
    from avcompress.prune import Coupling, Removed
    from avcompress.prune.importance import Scores
    from avcompress.prune.latency.solve import Problem
    from avcompress.prune.latency.widths import Counts, Floats

TABLE = "table.json"
_TRIES = 3
_SPARE = 0.97
"""A network that is faster than this part of the goal could have kept more channels."""
_CLOSE = 1.02
"""A measurement that is no further above the goal keeps it: another one of the same network differs by as much."""


@dataclass(frozen=True)
class Budget:
    """What a network may take, and how its latency follows from its widths.

    Attributes:
        engine: whose latency it is.
        folder: of the step that has measured the table.
        goal_ms: what the network may take.
    """

    engine: Engine
    folder: Path
    goal_ms: float


def take_budget(chooser: Chooser[Prune], name: str, dense_ms: float | None, part: int) -> tuple[Budget, float]:
    """Measure what widths take, as a step; returns the budget of a part of the stage, and what the network takes now.

    `dense_ms` is what it took before the first part, which has none.
    """
    from avcompress.prune import channel_groups
    from avcompress.prune.latency.measure import measure_table, structure_digest
    from avcompress.prune.latency.table import load_table, save_table
    from avcompress.prune.selection import steps_of

    bench, stage = chooser.bench, chooser.stage
    engine = engine_of(bench.engines, stage.backend, chooser.where)
    network = deployed(chooser.model.whole(chooser.model.artifact.model))
    digest = structure_digest(network)

    def compute(folder: Path, track: Track) -> None:
        free = concerned(channel_groups(network), stage, chooser.where)
        save_table(measure_table(network, free, engine, steps_of(free, *stage.alignments), track), folder / TABLE)

    patterns = (stage.layers, stage.exclude, stage.alignments)
    key = step_key("latency", digest, engine.model_dump(exclude={"required"}), patterns, runtime_versions())
    folder = bench.step(name, f"time widths, {engine.backend}", key, compute, still=True)
    now = load_table(folder / TABLE, digest).designs[0].total_ms
    goal = stage.deadline_ms or (dense_ms or now) / (stage.speedup or 1)
    # Each part takes the same share off.
    return Budget(engine, folder, now * (goal / now) ** (1 / (stage.parts - part + 1))), now


def chosen_for(
    chooser: Chooser[Prune], budget: Budget, network: onnx.ModelProto, scores: Scores
) -> tuple[dict[str, tuple[int, ...]], LatencyGoal]:
    """What to remove, by group, so that the network keeps a budget when it is measured.

    Where a choice turns out slower than predicted, or so much faster that more could stay, the next one aims by as much
    lower or higher; of those that keep the budget the slowest is taken.
    Raises RecipeError for a budget that no allowed widths keep.
    """
    from avcompress.prune import channel_groups, without
    from avcompress.prune.latency.measure import latencies_ms
    from avcompress.prune.latency.solve import solve
    from avcompress.prune.latency.widths import counts_of

    plain = deployed(network)  # as engines run it: not all of them fold normalization
    free = concerned(channel_groups(plain), chooser.stage, chooser.where)
    problem, dense_ms = _problem(chooser.stage, budget, plain, free, scores)
    aim, tried = budget.goal_ms, []
    for _ in range(_TRIES):
        removed = solve(problem, aim)
        predicted = float(problem.clock(counts_of(problem.coupling, removed)[None])[0])
        before, after = latencies_ms([plain, without(plain, free, removed)], budget.engine)
        # In parts of the network in turns with which it was measured: machines have slower hours.
        measured = after * dense_ms / before
        tried.append(_Try(removed, predicted, measured))
        if _SPARE * budget.goal_ms <= measured <= _CLOSE * budget.goal_ms:
            break
        aim *= budget.goal_ms / measured
    best = _best(tried, _CLOSE * budget.goal_ms)
    goal = LatencyGoal(
        engine=budget.engine.backend,
        goal_ms=budget.goal_ms,
        before_ms=dense_ms,
        predicted_ms=best.predicted_ms,
        measured_ms=best.measured_ms,
    )
    return dict(best.removed), goal


class _Try(NamedTuple):
    """What to remove, and what the network then takes."""

    removed: Removed
    predicted_ms: float
    measured_ms: float


def _best(tried: Sequence[_Try], limit_ms: float) -> _Try:
    """The slowest that keeps the limit; the fastest where none does."""
    keep = [each for each in tried if each.measured_ms <= limit_ms]
    if keep:
        return max(keep, key=lambda each: each.measured_ms)
    return min(tried, key=lambda each: each.measured_ms)


def _problem(
    stage: Prune, budget: Budget, network: onnx.ModelProto, free: Coupling, scores: Scores
) -> tuple[Problem, float]:
    """What there is to choose, of the groups that have scores; and what the network takes as it is."""
    from avcompress.prune.latency.measure import structure_digest
    from avcompress.prune.latency.predict import fit
    from avcompress.prune.latency.solve import Problem
    from avcompress.prune.latency.table import load_table
    from avcompress.prune.latency.widths import widths_of
    from avcompress.prune.selection import steps_of

    table = load_table(budget.folder / TABLE, structure_digest(network))
    predictor = fit(table, widths_of(network, free))
    scored = [index for index, group in enumerate(free.groups) if group.name in scores]

    def clock(counts: Counts) -> Floats:
        every = np.zeros((len(counts), len(free.groups)), np.int64)
        every[:, scored] = counts
        return predictor.total_ms(every)

    chosen = replace(free, groups=tuple(free.groups[index] for index in scored))
    steps = steps_of(free, *stage.alignments)
    return Problem(chosen, scores, clock, steps, stage.floor), table.designs[0].total_ms
