"""Where a node reads the time; tests bring their own, and never sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Clock(NamedTuple):
    """Two clocks, in nanoseconds.

    Attributes:
        monotonic_ns: never backwards: for all that takes time.
        stamp_ns: the clock that cameras stamp their images by: the time of day, or a simulator's.
    """

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    stamp_ns: Callable[[], int] = time.time_ns


REAL = Clock()
