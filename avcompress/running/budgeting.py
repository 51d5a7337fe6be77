"""Pruning for a latency: the channels whose loss costs least for a speed-up or a deadline, held against the clock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from avcompress.float_network import deployed
from avcompress.recipe import Engine
from avcompress.recipe_prune import Prune
from avcompress.running.choosing import Chooser, concerned
from avcompress.running.targeting import engine_of
from avcompress.spec import Track
from avcompress.state import step_key
from validation.machine import processors, runtime_versions
from validation.report import LatencyGoal, LatencyTry

if TYPE_CHECKING:
    from avcompress.prune import Coupling, Removed
    from avcompress.prune.importance import Scores

TABLE = "table.json"


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

    bench, stage = chooser.bench, chooser.stage
    engine = engine_of(bench.engines, stage.backend, chooser.where)
    network = deployed(chooser.model.whole(chooser.model.artifact.model))
    digest = structure_digest(network)

    def compute(folder: Path, track: Track) -> None:
        free = concerned(channel_groups(network), stage, chooser.where)
        save_table(measure_table(network, free, engine, _steps(stage, free), track), folder / TABLE)

    patterns = (stage.layers, stage.exclude, stage.alignments)
    known = (engine.model_dump(exclude={"required"}), patterns, runtime_versions(), processors())
    key = step_key("latency", digest, *known)
    folder = bench.step(name, f"time widths, {engine.backend}", key, compute, still=True)
    now = load_table(folder / TABLE, digest).designs[0].total_ms
    goal = stage.deadline_ms or (dense_ms or now) / (stage.speedup or 1)
    # Each part takes the same share off.
    return Budget(engine, folder, now * (goal / now) ** (1 / (stage.parts - part + 1))), now


def chosen_for(
    chooser: Chooser[Prune], budget: Budget, network: onnx.ModelProto, scores: Scores
) -> tuple[dict[str, tuple[int, ...]], LatencyGoal]:
    """What to remove, by group, so that the network keeps a budget when it is measured.

    Raises RecipeError for a budget that no allowed widths keep.
    """
    from avcompress.prune import channel_groups, without
    from avcompress.prune.latency.approach import approach, best_of
    from avcompress.prune.latency.measure import latencies_ms, structure_digest
    from avcompress.prune.latency.predict import fit
    from avcompress.prune.latency.solve import Problem
    from avcompress.prune.latency.table import load_table
    from avcompress.prune.latency.widths import widths_of

    plain = deployed(network)  # as engines run it: not all of them fold normalization
    free = concerned(channel_groups(plain), chooser.stage, chooser.where)
    table, widths = load_table(budget.folder / TABLE, structure_digest(plain)), widths_of(plain, free)
    dense_ms = table.designs[0].total_ms

    def measured_ms(removed: Removed) -> float:
        before, after = latencies_ms([plain, without(plain, free, removed)], budget.engine)
        # In parts of the network in turns with which it was measured: machines have slower hours.
        return after * dense_ms / before

    problem = Problem(free, scores, fit(table, widths).total_ms, _steps(chooser.stage, free), chooser.stage.floor)
    tried = approach(problem, table, widths, budget.goal_ms, measured_ms)
    best = best_of(tried, problem, budget.goal_ms)
    goal = LatencyGoal(
        engine=budget.engine.backend,
        goal_ms=budget.goal_ms,
        before_ms=dense_ms,
        predicted_ms=best.predicted_ms,
        measured_ms=best.measured_ms,
        tries=tuple(LatencyTry(predicted_ms=each.predicted_ms, measured_ms=each.measured_ms) for each in tried),
    )
    return dict(best.removed), goal


def _steps(stage: Prune, coupling: Coupling) -> dict[str, int]:
    """By group, of how many channels widths are multiples."""
    from avcompress.prune.selection import steps_of

    return steps_of(coupling, *stage.alignments)
