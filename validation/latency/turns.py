"""Which of several engines is faster: each is run in turn, so that a busy machine is busy for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from avcompress.spec import Array
from validation.latency.bounds import percentile_ranks
from validation.latency.timing import REAL, Clock, no_garbage_collection

_SAME = 0.02
"""Share of a latency, at least: one engine, opened five times and run in the same turns, gave up to 2.5 % more."""


@dataclass(frozen=True)
class InTurn:
    """What an engine takes beside others.

    Attributes:
        p50_ms: its median, with the machine in the mood of the median turn.
        noise_ms: how far chance may have moved that. Engines that differ by less than both their noises together are
            as fast as each other.
    """

    p50_ms: float
    noise_ms: float


def time_each(runs: Sequence[Callable[[], object]], turns: int, warmup: int = 0, clock: Clock = REAL.clock) -> Array:
    """Milliseconds of each turn, (turns, engines), after so many that do not count.

    Each turn has an order of its own, the same every time: an engine that always followed the same one would have its
    caches and threads to live with.
    """
    times = np.empty((warmup + turns, len(runs)))
    random = np.random.default_rng(0)
    with no_garbage_collection():
        for turn in range(warmup + turns):
            for place in random.permutation(len(runs)):
                start = clock()
                runs[place]()
                times[turn, place] = (clock() - start) / 1e6
    return times[warmup:]


def in_turn(times: Array) -> tuple[InTurn, ...]:
    """Of each engine what it takes, from (turns, engines) milliseconds, at least one turn.

    A turn's geometric mean is the machine's mood, which is divided out; the noise is half of the exact interval of what
    is left, or 2 % where that is more.
    """
    moods = np.exp(np.log(times).mean(axis=1, keepdims=True))
    shares, usual_ms = np.sort(times / moods, axis=0), float(np.median(moods))
    low, high = percentile_ranks(len(times), 0.5)
    ends = shares[(low or 1) - 1], shares[(high or len(times)) - 1]
    medians = np.median(shares, axis=0) * usual_ms
    noises = np.maximum((ends[1] - ends[0]) / 2 * usual_ms, _SAME * medians)
    return tuple(InTurn(float(median), float(noise)) for median, noise in zip(medians, noises, strict=True))
