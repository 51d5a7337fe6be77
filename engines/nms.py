"""Greedy non-maximum suppression within each class: exact, and fast where few boxes overlap; NumPy only.

Only the best candidates are looked at, and only pairs of boxes that may overlap enough; both are proved below to give
what looking at everything gives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Indices = NDArray[np.intp]

_BLOCK = 1024  # candidates looked at first
_PAIRS = 1 << 16  # of boxes compared for one block, so that all of it stays in the processor's cache
_PIECE = 1 << 14  # of them at a time
_SLACK = 1e-5  # far more than float32's rounding of areas and sides
_TINY = 1e-30  # square pixels: smaller areas are rounded coarsely


def keep_best(xyxy: Floats, scores: Floats, labels: Labels, iou: float, max_detections: int) -> Indices:
    """Rows that greedy suppression keeps, in descending score, ties in given order; the first `max_detections`.

    A box goes when its overlap with a kept box of its class is above `iou`: shared area > iou * union, in float32,
    so that two empty boxes have no overlap rather than 0 / 0.

    Args:
        xyxy: (N, 4) finite, within a million pixels of 0, so that no area overflows.
        scores: (N,) finite.
        labels: (N,), the classes.
        iou: the largest overlap that may stay.
        max_detections: how many rows at most.

    Source: exact, equal to the pairwise loop; torchvision.ops.batched_nms without its coordinate trick.
    """
    order = _leaders(scores, max(4 * max_detections, _BLOCK))
    kept, at, size = order[:0], 0, min(max(4 * max_detections, _BLOCK // 4), _BLOCK)
    while len(kept) < max_detections and at < len(scores):
        if at == len(order):
            order = _leaders(scores, 4 * len(order))
        # What is removed removes nothing, so a block's predecessors are represented by those of them that are kept.
        block = np.concatenate([kept, order[at : at + size]])
        at = min(at + size, len(order))
        pairs = _overlapping(xyxy.take(block, axis=0), labels.take(block), iou)
        kept = block[_survivors(pairs, len(block))]
        size = _next_size(len(kept), len(block), pairs.tried)
    return kept[:max_detections]


def _leaders(scores: Floats, count: int) -> Indices:
    """The first `count` rows, or a few more, of the stable order of descending score."""
    if count >= len(scores):
        return _descending(scores)
    # With all that tie with the last one: which of them come first, the stable sort tells.
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    rows = np.flatnonzero(scores >= least)
    return rows.take(_descending(scores.take(rows)))


def _descending(scores: Floats) -> Indices:
    """What np.argsort(-scores, kind="stable") gives, in a quarter of its time."""
    # Bits of floats sort as integers do, the negative ones the other way round; + 0 as -0 equals 0. With the row
    # behind them no two are equal, and the fastest sort will do.
    bits = (-scores + np.float32(0)).view(np.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32
    keys |= np.arange(len(scores))
    keys.sort()
    rows: Indices = (keys & 0xFFFFFFFF).astype(np.intp)
    return rows


def _next_size(kept: int, block: int, tried: int) -> int:
    """Candidates of the next block: about as many as give `_PAIRS`, but enough that the kept are not repeated often."""
    # Pairs grow with the square of the boxes.
    wanted = int(block * (_PAIRS / max(tried, 1)) ** 0.5) - kept
    return max(wanted, kept, _BLOCK // 4)


class _Pairs(NamedTuple):
    """Boxes of one class that overlap too much, by rank: `better` < `worse`; and how many pairs were compared."""

    better: Indices
    worse: Indices
    tried: int


class _Boxes(NamedTuple):
    """Boxes as contiguous columns."""

    rank: Indices  # place by score
    label: Labels
    left: Floats
    top: Floats
    right: Floats
    bottom: Floats
    area: Floats
    across: NDArray[np.float64]  # one that overlaps this enough begins no further to the right of its left side,
    down: Floats  # and no further below its top


def _overlapping(xyxy: Floats, labels: Labels, iou: float) -> _Pairs:
    """All pairs of one class that overlap by more than `iou`; boxes come in rank order.

    Shared area > iou * union implies shared width > iou * the width of each, since a union is at least width * height,
    and a shared height at most the height. So left sides are less than (1 - iou) * the left one's width apart; likewise
    the tops.
    """
    boxes, counts = _sort(_columns(xyxy, labels, iou))
    ends = np.cumsum(counts)
    pairs = int(ends[-1])
    found = [np.empty((2, 0), np.intp)]
    start = done = 0
    while done < pairs:
        stop = max(int(np.searchsorted(ends, done + _PIECE, side="right")), start + 1)
        some, place = counts[start:stop], np.arange(start, stop)
        first = np.repeat(place, some)
        # The pairs of a box are with those right behind it.
        second = np.arange(done, int(ends[stop - 1])) - np.repeat(ends[start:stop] - some - place - 1, some)
        found.append(_compare(boxes, first, second, iou))
        start, done = stop, int(ends[stop - 1])
    better, worse = np.concatenate(found, axis=1) if len(found) > 2 else found[-1]
    return _Pairs(better, worse, pairs)


def _columns(xyxy: Floats, labels: Labels, iou: float) -> _Boxes:
    left, top, right, bottom = np.ascontiguousarray(xyxy.T)
    width, height = np.maximum(right - left, 0), np.maximum(bottom - top, 0)
    area = width * height
    part = np.where(area > _TINY, 1 - iou, 1) + _SLACK
    down = (height * part).astype(np.float32)
    return _Boxes(np.arange(len(labels)), labels, left, top, right, bottom, area, width * part, down)


def _sort(boxes: _Boxes) -> tuple[_Boxes, Indices]:
    """Sort by class, then left side; and count for each box how many behind it begin near enough to overlap it enough.

    Both are one number: rounding keeps its order, so it only adds pairs. That they are of one class is looked at again.
    """
    base = boxes.label * (2 * (np.float64(boxes.right.max()) - boxes.left.min()) + 1)
    key = base + boxes.left
    by_key = np.argsort(key)
    end = (base + (boxes.left + boxes.across))[by_key]
    counts = np.searchsorted(key[by_key], end, side="right") - boxes.rank - 1
    return _Boxes._make(column.take(by_key) for column in boxes), counts


def _compare(boxes: _Boxes, first: Indices, second: Indices, iou: float) -> Indices:
    """The pairs that do overlap by more than `iou`: (2, pairs) ranks, the better one first."""
    below = boxes.top[second] - boxes.top[first]
    near = np.flatnonzero((below <= boxes.down[first]) & (-below <= boxes.down[second]))
    a, b = first[near], second[near]
    shared = np.minimum(boxes.right[a], boxes.right[b]) - np.maximum(boxes.left[a], boxes.left[b])
    height = np.minimum(boxes.bottom[a], boxes.bottom[b]) - np.maximum(boxes.top[a], boxes.top[b])
    shared = np.maximum(shared, 0) * np.maximum(height, 0)
    union = boxes.area[a] + boxes.area[b] - shared
    above = np.flatnonzero((shared > union * np.float32(iou)) & (boxes.label[a] == boxes.label[b]))
    a, b = boxes.rank[a[above]], boxes.rank[b[above]]
    return np.stack([np.minimum(a, b), np.maximum(a, b)])


def _survivors(pairs: _Pairs, count: int) -> NDArray[np.bool_]:
    """Who is left of `count` boxes when each one kept removes those after it that it overlaps.

    All at once instead of one by one: who has no better one undecided is kept, and decides those that it overlaps;
    repeated for the rest, which is a few times, the longest chain of overlaps at most.
    """
    better, worse = pairs.better, pairs.worse
    alive = np.ones(count, np.bool_)
    while len(better):
        undecided = np.zeros(count, np.bool_)
        undecided[worse] = True
        waits = undecided[better]
        alive[worse[~waits]] = False
        rest = np.flatnonzero(waits & alive[better] & alive[worse])
        better, worse = better[rest], worse[rest]
    return alive
