"""Clocks, waiting for a moment, and a garbage collector that rests: what every measurement needs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

Clock = Callable[[], int]
"""Nanoseconds from any origin, never backwards."""

SPIN_NS = 2_000_000
"""How long before a moment the waiting goes on without sleep: an operating system wakes us late, and later than this
only where it is busy with others."""


class Time(NamedTuple):
    """What time is read from and waited by.

    Attributes:
        clock: nanoseconds.
        sleep: takes seconds; may return late.
        spin_ns: how long before a moment to stop sleeping, and look at the clock without pause.
    """

    clock: Clock = time.perf_counter_ns
    sleep: Callable[[float], None] = time.sleep
    spin_ns: int = SPIN_NS


REAL = Time()


def wait_until(moment_ns: int, by: Time) -> None:
    """Return at a moment of the clock or just after, never before."""
    left = moment_ns - by.clock() - by.spin_ns
    if left > 0:
        by.sleep(left / 1e9)
    while by.clock() < moment_ns:
        pass


def run_once(functions: tuple[Callable[[Any], Any], ...], value: Any, reading: list[int], clock: Clock) -> None:
    """Feed each function what the one before returned; one clock reading ends a stage and begins the next.

    Args:
        functions: the stages, in order.
        value: what the first one is fed.
        reading: filled with the moments, one more than there are stages.
        clock: nanoseconds.
    """
    reading[0] = clock()
    for position, function in enumerate(functions, start=1):
        value = function(value)
        reading[position] = clock()


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection is a pause of Python's, not of the engine's; the collector is put back as it was."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
