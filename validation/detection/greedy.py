"""Greedy matching in rounds: the k-th chooser of every group chooses at the same time."""

from __future__ import annotations

import numpy as np

from validation.detection.ranked import Bools, Ints


def choose(
    turn: Ints, chooser: Ints, candidate: Ints, eligible: Bools, favoured: Bools, taken_for_good: Bools
) -> Bools:
    """Let every chooser take its best free candidate: (P, S) bool, the pairs that were made, under S rules at once.

    The P pairs stand turn by turn, chooser by chooser, and each chooser's candidates from the worst to the best.
    A favoured candidate goes before every one that is not.

    Args:
        turn: (P,) of the chooser; of two that want what can be taken but once, each has a turn of its own.
        chooser: (P,) index.
        candidate: (P,) index.
        eligible: (P, S), whether the pair may be made at all.
        favoured: (P, S).
        taken_for_good: (candidates,), whether one can be taken but once.
    """
    free = np.ones((len(taken_for_good), eligible.shape[1]), np.bool_)
    made = np.zeros(eligible.shape, np.bool_)
    bounds = np.flatnonzero(np.diff(turn, prepend=-1, append=-1))
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = slice(low, high)
        heads = np.flatnonzero(np.diff(chooser[part], prepend=-1))
        sizes = np.diff(heads, append=high - low)
        place = np.arange(1, high - low + 1) - np.repeat(heads, sizes)
        # A pair's worth is its place, above all others where it is favoured, and 0 where it cannot be made.
        worth = place[:, None].astype(np.int32) + np.int32(sizes.max()) * favoured[part]
        worth *= eligible[part] & free[candidate[part]]
        best = np.repeat(np.maximum.reduceat(worth, heads, axis=0), sizes, axis=0)
        made[part] = (worth == best) & (worth > 0)
        rows, columns = np.nonzero(made[part] & taken_for_good[candidate[part], None])
        free[candidate[part][rows], columns] = False
    return made
