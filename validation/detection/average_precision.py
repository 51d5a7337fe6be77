"""COCO average precision under image weights, from curves that are drawn once.

Everything is linear in the weights, up to the quotients: the precision at a hit is the weighted hits so far over the
weighted detections so far. Only hits can be corners of the precision's envelope, so only there are quotients taken; the
detections between them are one cumulative sum a class and size range, whatever the overlap, and what an overlap changes
(a detection that is matched to an object which does not count) is added at its own place.

A resampled image's detections count one after the other. Where an image that is drawn twice has detections of one class
with the same score, pycocotools, given the image twice, orders them d1, d2, d1, d2; here it is d1, d1, d2, d2.

Source: pycocotools cocoeval.py, accumulate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from validation.detection.curves import Curve, Events
from validation.detection.ranked import Floats, Ints
from validation.detection.weighting import count

RECALLS: Floats = np.linspace(0.0, 1.0, 101)
_CELLS = 1 << 19  # of a cumulative sum at a time, 4 MiB


class AveragePrecision(NamedTuple):
    """Of one class in one range of size, (T, R) each; NaN where no object is drawn.

    Attributes:
        precision: the mean of the precision's envelope at the 101 recalls.
        recall: of all detections.
    """

    precision: Floats
    recall: Floats


def average_precision(curve: Curve, weights: Floats) -> AveragePrecision:
    """AP and recall at each overlap, under weights (I, R)."""
    objects = count(curve.objects, weights)
    found = np.full((2, len(curve.events), weights.shape[1]), np.nan)
    step = max(1, _CELLS // (1 + len(curve.own) + max(len(events.hit) for events in curve.events)))
    for low in range(0, weights.shape[1], step) if len(curve.objects) else ():
        part = slice(low, low + step)
        own = _so_far(curve, weights[:, part])
        for column, events in enumerate(curve.events):
            found[:, column, part] = _under_envelope(events, own, weights[events.image, part], objects[part])
    return AveragePrecision(*np.where(objects > 0, found, np.nan))


def _so_far(curve: Curve, weights: Floats) -> Floats:
    """The weighted own detections up to the end of each stretch, 0 before the first."""
    so_far = np.zeros((len(curve.starts) + 1, weights.shape[1]))
    if len(curve.starts):
        np.cumsum(np.add.reduceat(weights[curve.own], curve.starts, axis=0), axis=0, out=so_far[1:])
    return so_far


def _under_envelope(events: Events, own: Floats, drawn: Floats, objects: Floats) -> tuple[Floats, Floats]:
    """The area, and the recall, from the cumulative own detections and the events' own weights, (E, R)."""
    if not len(drawn):
        return np.zeros_like(objects), np.zeros_like(objects)
    hits = np.cumsum(drawn if events.hit.all() else drawn * events.hit[:, None], axis=0)
    counted = own[events.after]
    if events.change.any():
        counted += np.cumsum(drawn * events.change[:, None], axis=0)
    # No hits so far where nothing is counted: 0 of anything is 0.
    precision = hits / np.maximum(counted, np.finfo(np.float64).tiny)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = hits / np.maximum(objects, np.finfo(np.float64).tiny)
    reached = np.diff(_recalls_up_to(recall), axis=0, prepend=0)
    return np.einsum("er,er->r", envelope, reached) / len(RECALLS), recall[-1]


def _recalls_up_to(recall: Floats) -> Ints:
    """How many of the 101 recalls are reached: exactly those <= recall, which rounding of 100 * recall would miss."""
    last = (recall * 100 + 1e-6).astype(np.int64)
    np.minimum(last, 100, out=last)
    reached: Ints = last + (RECALLS[last] <= recall)
    return reached
