"""Boundaries of the classes in a mask, and which of their pixels the boundary in another mask is near.

Source: Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013: precision
and recall of boundary pixels within 0.75 % of the image's diagonal. Here pixels are pooled over the set, as everything
else is, and not averaged by image; a distance equal to the tolerance is near.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from calibration.sample import VOID

TOLERANCE = 0.0075
"""Of the image's diagonal."""


def tolerance_px(shape: tuple[int, int]) -> float:
    """How far apart, in pixels, two boundaries may be; no less than a pixel, however small the image."""
    return max(1.0, TOLERANCE * math.hypot(*shape))


def boundary_map(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The class of each pixel on its class's boundary, VOID elsewhere: (H, W).

    On the boundary is a pixel that has another class above, below, left or right of it. The image's edge is no
    boundary, and neither is a border with unlabelled pixels: nobody knows where it runs.
    """
    edge = np.zeros(mask.shape, np.bool_)
    known = mask != VOID
    for here, there in (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
    ):
        differs = (mask[here] != mask[there]) & known[here] & known[there]
        edge[here] |= differs
        edge[there] |= differs
    return np.where(edge, mask, np.uint8(VOID))


def near(boundary: NDArray[np.uint8], other: NDArray[np.uint8], tolerance: float) -> NDArray[np.bool_]:
    """Whether each boundary pixel has one of its own class within the tolerance in the other map: (H, W).

    Both as boundary_map gives them; the distance is Euclidean, between centres of pixels.
    """
    found = np.zeros(boundary.shape, np.bool_)
    # A class that the other map lacks would be sought in vain at every distance.
    sought = np.isin(boundary, np.setdiff1d(np.unique(other), [VOID]))
    places, labels = np.flatnonzero(sought), boundary[sought]
    reach = int(tolerance)
    padded = np.pad(other, reach, constant_values=VOID)
    rows, columns = np.divmod(places, boundary.shape[1])
    padded_places = (rows + reach) * padded.shape[1] + columns + reach
    values = padded.ravel()
    for down, right in _disc(tolerance):
        hit = values[padded_places + (down * padded.shape[1] + right)] == labels
        found.ravel()[places[hit]] = True
        left = ~hit
        places, padded_places, labels = places[left], padded_places[left], labels[left]
        if not places.size:
            break
    return found


@lru_cache
def _disc(radius: float) -> tuple[tuple[int, int], ...]:
    """The steps (down, right) to every pixel within the radius, nearest first: most pixels are found early."""
    reach = int(radius)
    steps = range(-reach, reach + 1)
    disc = [(down, right) for down in steps for right in steps if math.hypot(down, right) <= radius]
    return tuple(sorted(disc, key=lambda step: (math.hypot(*step), step)))
