"""One way for each layer, or none, so that enough time is saved with the least error: a knapsack with choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BUCKETS = 2000
"""Parts that the time to save is counted in; each option's saving is rounded down to them."""


class Option(NamedTuple):
    """What one way to take a layer apart saves and costs."""

    saved_ms: float
    error: float


def least_error(layers: Sequence[Sequence[Option]], needed_ms: float) -> tuple[int | None, ...] | None:
    """For each layer the index of one of its options, or None: together they save enough with the least sum of errors.

    None where all together do not save enough. Dynamic programming over what is saved, in parts of `needed_ms`.
    """
    if needed_ms <= 0:
        return (None,) * len(layers)
    error = np.full(_BUCKETS + 1, np.inf)  # of the best choice so far that saves at least so many parts
    error[0] = 0.0
    chosen = np.full((len(layers), _BUCKETS + 1), -1)
    parts = np.arange(_BUCKETS + 1)
    for number, options in enumerate(layers):
        best = error.copy()
        for index, option in enumerate(options):
            saved = int(option.saved_ms / needed_ms * _BUCKETS)
            reached = error[np.maximum(parts - max(saved, 0), 0)] + option.error
            better = reached < best
            best[better], chosen[number, better] = reached[better], index
        error = best
    return None if np.isinf(error[-1]) else _traced(layers, chosen, needed_ms)


def _traced(
    layers: Sequence[Sequence[Option]], chosen: np.ndarray[tuple[int, ...], np.dtype[np.int64]], needed_ms: float
) -> tuple[int | None, ...]:
    left = _BUCKETS
    found: list[int | None] = []
    for number in reversed(range(len(layers))):
        index = int(chosen[number, left])
        found.append(None if index < 0 else index)
        if index >= 0:
            left = max(left - int(layers[number][index].saved_ms / needed_ms * _BUCKETS), 0)
    return tuple(reversed(found))
