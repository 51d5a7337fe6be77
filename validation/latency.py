"""Latency of a callable, and of the stages from image to prediction: every sample is kept."""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from avcompress.spec import RecipeError, Track, untracked

Clock = Callable[[], int]
"""Nanoseconds from any origin, never backwards."""

TOTAL = "total"
RUNS_NEEDED = {"p50": 1, "p90": 10, "p99": 100, "p99.9": 1000}
"""The least number of samples that leaves one observation at or beyond the percentile: 1 / (1 - p)."""

_PERMILLE = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}


@dataclass(frozen=True)
class Latency:
    """Latencies in milliseconds, in the order in which they were measured."""

    samples_ms: tuple[float, ...]

    def percentile(self, name: str) -> float:
        """p50, p90, p99 or p99.9 by nearest rank, so a latency that did occur; NaN where the samples are too few.

        Source: nearest-rank percentile, the ceil(p * n)-th smallest of n.
        """
        if len(self.samples_ms) < RUNS_NEEDED[name]:
            return math.nan
        rank = -(-_PERMILLE[name] * len(self.samples_ms) // 1000)  # ceil in integers: 0.999 * 1000 is not exact
        return sorted(self.samples_ms)[rank - 1]

    @property
    def p50(self) -> float:
        """The median."""
        return self.percentile("p50")

    @property
    def p90(self) -> float:
        """Nine in ten are no slower."""
        return self.percentile("p90")

    @property
    def p99(self) -> float:
        """NaN below 100 samples."""
        return self.percentile("p99")

    @property
    def p99_9(self) -> float:
        """NaN below 1,000 samples."""
        return self.percentile("p99.9")

    @property
    def mean(self) -> float:
        """The arithmetic mean; NaN without samples."""
        return math.fsum(self.samples_ms) / len(self.samples_ms) if self.samples_ms else math.nan

    @property
    def max(self) -> float:
        """The slowest; NaN without samples."""
        return max(self.samples_ms, default=math.nan)


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
    stages: Mapping[str, Callable[[Any], Any]],
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
    with _no_garbage_collection():
        for index in track(range(-warmup, runs), warmup + runs):
            _run_once(functions, item, readings[index] if index >= 0 else spare, clock)
    names = (*stages, TOTAL)
    columns = zip(*((*_steps(row), row[-1] - row[0]) for row in readings), strict=True)
    return {name: Latency(tuple(ns / 1e6 for ns in column)) for name, column in zip(names, columns, strict=True)}


def _run_once(functions: tuple[Callable[[Any], Any], ...], value: Any, reading: list[int], clock: Clock) -> None:
    reading[0] = clock()
    for position, function in enumerate(functions, start=1):
        value = function(value)
        reading[position] = clock()


def _steps(row: list[int]) -> list[int]:
    return [after - before for before, after in itertools.pairwise(row)]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection is a pause of Python's, not of the engine's; the collector is put back as it was."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
