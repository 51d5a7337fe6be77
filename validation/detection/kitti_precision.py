"""KITTI average precision at 40 recalls, under image weights.

As there, a class with fewer objects than recalls cannot reach 1: each hit gives one threshold.

Source: KITTI object development kit, evaluate_object.cpp: getThresholds, eval_class; 40 recalls since 8 October 2019,
after Simonelli et al., Disentangling Monocular 3D Object Detection, ICCV 2019.
"""

from __future__ import annotations

import numpy as np

from validation.detection.kitti_curves import KittiCurve
from validation.detection.ranked import Floats, Ints
from validation.detection.weighting import count

POINTS = 41
_CELLS = 1 << 17  # of a cumulative sum at a time, 1 MiB


def kitti_precision(curve: KittiCurve, draws: Floats) -> Floats:
    """AP at 40 recalls, (R,), under whole draws (R, I); NaN where no object is drawn."""
    if not np.array_equal(draws, np.rint(draws)):
        raise ValueError("expected whole weights, got others; the recalls of KITTI count single hits")
    objects = count(curve.objects, draws)
    found = np.zeros(len(draws))
    step = max(1, _CELLS // (1 + len(curve.image)))
    for low in range(0, len(draws), step) if len(curve.hit_image) else ():
        part = slice(low, low + step)
        found[part] = _average(curve, draws[part], objects[part])
    return np.where(objects > 0, found, np.nan)


def _average(curve: KittiCurve, draws: Floats, objects: Floats) -> Floats:
    drawn = draws.take(curve.image, axis=1)
    hits, alarms = np.cumsum(drawn * curve.hits, axis=1), np.cumsum(drawn * curve.alarms, axis=1)
    # The changes down to each hit's own score.
    after = np.searchsorted(-curve.score, -curve.hit_score, side="right") - 1
    precision = np.zeros((len(draws), POINTS))
    for row, points in enumerate(_thresholds(draws.take(curve.hit_image, axis=1), objects)):
        at = after[points]
        precision[row, : len(at)] = hits[row, at] / (hits[row, at] + alarms[row, at])
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    average: Floats = envelope[:, 1:].mean(axis=1)
    return average


def _thresholds(hits: Floats, objects: Floats) -> list[Ints]:
    """The hits whose scores are the thresholds, for each row of `hits` (R, V): how often each is drawn, best first."""
    so_far = np.cumsum(hits, axis=1)
    picked = _picked(so_far[:, -1], np.maximum(objects, 1))
    return [
        np.searchsorted(row, chosen[chosen >= 0], side="right") for row, chosen in zip(so_far, picked.T, strict=True)
    ]


def _picked(hits: Floats, objects: Floats) -> Floats:
    """(41, R), which hits, counted from 0, come nearest to each recall in turn; -1 where there are no more."""
    picked = np.full((POINTS, len(hits)), -1.0)
    last, previous = hits - 1, np.full(len(hits), -1.0)
    # The development kit adds up the steps, with their rounding.
    for point, recall in enumerate(np.concatenate([[0.0], np.cumsum(np.full(POINTS - 1, 1 / (POINTS - 1)))])):
        # A hit is passed over while the next one's recall is nearer; the guess is at most one too low.
        at = np.maximum(previous + 1, np.floor(recall * objects - 1.5))
        for _ in range(2):
            at += ((at + 2) / objects - recall < recall - (at + 1) / objects) & (at < last)
        at = np.minimum(at, np.maximum(last, previous + 1))
        more = at <= last
        picked[point, more] = at[more]
        previous = np.where(more, at, last)
    return picked
