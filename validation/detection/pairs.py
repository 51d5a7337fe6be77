"""Which detection overlaps which object, over a whole data set at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from validation.detection.ranked import Floats, Ints


class Pairs(NamedTuple):
    """Detections and objects that overlap enough to be matched.

    Attributes:
        detection: (P,) index.
        object: (P,) index.
        overlap: (P,) 0-1.
    """

    detection: Ints
    object: Ints
    overlap: Floats

    def take(self, which: Ints) -> Pairs:
        """Those at `which`, in its order."""
        return Pairs(self.detection[which], self.object[which], self.overlap[which])


def meet(left: Ints, right: Ints) -> tuple[Ints, Ints]:
    """Index pairs (left, right) of equal keys, left after left, the right ones of each in order."""
    order = np.argsort(right, kind="stable")
    keys = right[order]
    start, end = np.searchsorted(keys, left), np.searchsorted(keys, left, side="right")
    counts = end - start
    lefts = np.repeat(np.arange(len(left)), counts)
    within = np.arange(len(lefts)) - np.repeat(np.cumsum(counts) - counts, counts)
    return lefts, order[np.repeat(start, counts) + within]


def shared_area(a: Floats, b: Floats) -> Floats:
    """The intersections of boxes (P, 4) with boxes (P, 4), row by row, in square pixels."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared: Floats = sides[:, 0] * sides[:, 1]
    return np.where((sides > 0).all(axis=1), shared, 0.0)


def box_area(xyxy: Floats) -> Floats:
    """(N,) square pixels."""
    area: Floats = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    return area


def over_union(a: Floats, b: Floats) -> Floats:
    """Intersection over union, row by row; 0 where nothing is shared."""
    shared = shared_area(a, b)
    return _share(shared, box_area(a) + box_area(b) - shared)


def over_own(a: Floats, b: Floats) -> Floats:
    """The share of each box of `a` that lies in its box of `b`."""
    return _share(shared_area(a, b), box_area(a))


def _share(shared: Floats, whole: Floats) -> Floats:
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)
