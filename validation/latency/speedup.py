"""How many times as fast one engine is as another: both run in turns, so that a busy machine is busy for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from avcompress.spec import Array
from validation.latency.bounds import CONFIDENCE, percentile_ranks
from validation.latency.timing import REAL, Clock, no_garbage_collection


@dataclass(frozen=True)
class Speedup:
    """Two engines on the same inputs, without pre- and post-processing.

    Attributes:
        before_ms, after_ms: medians.
        ratio: the median of what one takes in parts of the other, turn by turn.
        low, high: exact bounds of that median, each by itself; None where there were too few turns for one.
    """

    before_ms: float
    after_ms: float
    ratio: float
    low: float | None
    high: float | None


def time_in_turns(
    before: Callable[[], object], after: Callable[[], object], runs: int, clock: Clock = REAL.clock
) -> Array:
    """Milliseconds of each turn, (runs, 2); who comes first alternates, since caches remember the last one."""
    times = np.empty((runs, 2))
    with no_garbage_collection():
        for turn in range(runs):
            order = ((0, before), (1, after)) if turn % 2 else ((1, after), (0, before))
            for place, run in order:
                start = clock()
                run()
                times[turn, place] = (clock() - start) / 1e6
    return times


def speedup_of(times: Array, confidence: float = CONFIDENCE) -> Speedup:
    """The ratio of two engines' times, (turns, 2), at least one turn; `confidence` is that of each bound."""
    ratios = np.sort(times[:, 0] / times[:, 1])
    low, high = percentile_ranks(len(ratios), 0.5, confidence)
    before, after = np.median(times, axis=0)
    return Speedup(
        before_ms=float(before),
        after_ms=float(after),
        ratio=float(np.median(ratios)),
        low=None if low is None else float(ratios[low - 1]),
        high=None if high is None else float(ratios[high - 1]),
    )
