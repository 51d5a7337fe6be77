"""What the runs of an engine are timed with where networks are compared."""

from __future__ import annotations

import time
from collections.abc import Callable

from avcompress.recipe import Engine, OpenVinoEngine, OrtEngine

Timer = Callable[[], float]
"""Reads seconds."""


def timer_of(engine: Engine) -> Timer:
    """The time that the CPU spends on this process, where one of its threads computes; else the time that passes.

    Other work on the machine then counts for nothing but the caches and memory that it shares.
    """
    alone = isinstance(engine, OpenVinoEngine | OrtEngine) and engine.threads == 1
    return time.process_time if alone else time.perf_counter
