"""Which frames of a drive to take, so that its scenes are all there: a pure function of what they look like.

Frames fall into groups, of one brightness and one kind of content each. Every group gives one frame, the larger ones
more; within a group they are spread over the drive. So a tunnel of ten seconds is there, and an hour of motorway does
not crowd it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avcompress.spec import Array

BANDS = ("dark", "medium", "bright")
BORDERS = (70.0, 170.0)
"""Between the bands, of the mean luma, 0-255: those of the slices by brightness."""
CLUSTERS = 16
"""Kinds of content told apart, at most."""
_FRAMES_A_CLUSTER = 4

Numbers = NDArray[np.int64]


class Chosen(NamedTuple):
    """What was chosen of n frames.

    Attributes:
        indices: of the chosen ones, ascending.
        bands: (n,), index into BANDS.
        clusters: (n,), from 0 on.
    """

    indices: Numbers
    bands: Numbers
    clusters: Numbers


def choose(descriptors: Array, brightness: Array, count: int, seed: int = 0) -> Chosen:
    """Choose `count` frames, or all where there are fewer.

    Args:
        descriptors: (n, d) uint8, n > 0, in the order of the drive; near means alike.
        brightness: (n,) mean luma, 0-255.
        count: how many, > 0.
        seed: another one begins elsewhere.
    """
    rng = np.random.default_rng(seed)
    bands = np.searchsorted(BORDERS, brightness, side="right")
    clusters = cluster(descriptors, min(CLUSTERS, max(1, count // _FRAMES_A_CLUSTER)), int(rng.integers(len(bands))))
    groups = [np.flatnonzero((bands == band) & (clusters == k)) for band in range(len(BANDS)) for k in set(clusters)]
    groups = [group for group in groups if len(group)]
    shares = allot([len(group) for group in groups], count)
    phase = float(rng.random())
    taken = [group[spread(len(group), share, phase)] for group, share in zip(groups, shares, strict=True)]
    return Chosen(np.sort(np.concatenate(taken)), bands, clusters)


def cluster(descriptors: Array, count: int, first: int) -> Numbers:
    """Sort into up to `count` clusters, each around the one that was farthest from the centres before it.

    `first`: the first centre. Returns (n,) int64.

    Source: Gonzalez, Clustering to minimize the maximum intercluster distance, 1985.
    """
    points = descriptors.astype(np.float32)
    nearest = np.full(len(points), np.inf, np.float32)
    clusters = np.zeros(len(points), np.int64)
    centre = first
    for index in range(count):
        distance = np.square(points - points[centre]).sum(axis=1)
        closer = distance < nearest
        clusters[closer], nearest[closer] = index, distance[closer]
        centre = int(nearest.argmax())
        if nearest[centre] == 0:
            break
    return clusters


def allot(sizes: Sequence[int], count: int) -> list[int]:
    """How many of `count` each group gives: one first, the largest before the others, then in proportion to its size.

    No group gives more than it has.

    Source: D'Hondt's method, each group's first seat apart.
    """
    shares = [0] * len(sizes)
    for _ in range(min(count, sum(sizes))):
        open_groups = [i for i, size in enumerate(sizes) if shares[i] < size]
        best = max(open_groups, key=lambda i: (shares[i] == 0, sizes[i] / (shares[i] + 1), -i))
        shares[best] += 1
    return shares


def spread(size: int, count: int, phase: float) -> Numbers:
    """`count` of the indices below `size`, evenly; `phase`, 0 to 1, says where in its stretch each one lies."""
    within = min(phase, _NEXT_TO_ONE)  # a sum that is rounded up would be the next stretch's
    return np.floor((np.arange(count) + within) * size / max(count, 1)).astype(np.int64)


_NEXT_TO_ONE = 1 - 1e-9
