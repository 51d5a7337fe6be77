"""Latency of a callable, and of the stages from image to prediction, back to back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from avcompress.spec import RecipeError, Track, untracked
from validation.latency.timing import Clock, no_garbage_collection, run_once
from validation.latency.values import Latency

TOTAL = "total"
Stages = Mapping[str, Callable[[Any], Any]]
"""Functions by name, in order, each fed what the one before returned."""


def measure_latency(
    run: Callable[[], object],
    warmup: int,
    runs: int,
    track: Track = untracked,
    clock: Clock = time.perf_counter_ns,
) -> Latency:
    """Time `run` `runs` times, after `warmup` calls that are not kept; the garbage collector rests meanwhile."""
    stages = {"run": lambda _: run()}
    return measure_stages(stages, None, (warmup, runs), track, clock)["run"]


def measure_stages(
    stages: Stages,
    item: object,
    counts: tuple[int, int],
    track: Track = untracked,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Time a chain of stages, each fed what the one before returned, and the whole of it as `total`.

    One clock reading ends a stage and begins the next, so the stages are disjoint and add up to the total exactly.

    Args:
        stages: by name, in order; `validation.predict.stages` gives those from an image to a prediction.
        item: what the first stage is fed.
        counts: (warm-up runs, runs that are kept).
        track: wraps the runs, for a progress bar.
        clock: nanoseconds.
    """
    warmup, runs = counts
    if warmup < 0 or runs < 1:
        raise RecipeError(f"measure: expected warmup >= 0 and runs >= 1, got {warmup} and {runs}; mend the recipe")
    readings = [[0] * (len(stages) + 1) for _ in range(runs)]
    spare = [0] * (len(stages) + 1)
    functions = tuple(stages.values())
    with no_garbage_collection():
        for index in track(range(-warmup, runs), warmup + runs):
            run_once(functions, item, readings[index] if index >= 0 else spare, clock)
    names = (*stages, TOTAL)
    return by_stage(names, ((*steps(row), row[-1] - row[0]) for row in readings))


def by_stage(names: Sequence[str], rows: Iterable[Sequence[int]]) -> dict[str, Latency]:
    """Latencies by name, from one row of nanoseconds a run."""
    columns = tuple(zip(*rows, strict=True)) or ((),) * len(names)
    return {name: Latency(tuple(ns / 1e6 for ns in column)) for name, column in zip(names, columns, strict=True)}


def steps(row: Sequence[int]) -> list[int]:
    """What passes between consecutive clock readings."""
    return [after - before for before, after in itertools.pairwise(row)]
