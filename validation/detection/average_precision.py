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
from validation.detection.ranked import Floats
from validation.detection.weighting import count

RECALLS: Floats = np.linspace(0.0, 1.0, 101)
_CELLS = 1 << 17  # of a cumulative sum at a time, 1 MiB
_TINY = np.finfo(np.float64).tiny


class AveragePrecision(NamedTuple):
    """Of one class in one range of size, (T, R) each; NaN where no object is drawn.

    Attributes:
        precision: the mean of the precision's envelope at the 101 recalls.
        recall: of all detections.
    """

    precision: Floats
    recall: Floats


def average_precision(curve: Curve, draws: Floats) -> AveragePrecision:
    """AP and recall at each overlap, under draws (R, I)."""
    objects = count(curve.objects, draws)
    found = np.full((2, len(curve.events), len(draws)), np.nan)
    step = max(1, _CELLS // (1 + len(curve.own) + max(len(events.hit) for events in curve.events)))
    for low in range(0, len(draws), step) if len(curve.objects) else ():
        part = slice(low, low + step)
        own = _so_far(curve, draws[part])
        for column, events in enumerate(curve.events):
            if column and _equal(events, curve.events[column - 1]):
                found[:, column, part] = found[:, column - 1, part]
                continue
            drawn = draws[part].take(events.image, axis=1)
            found[:, column, part] = _under_envelope(events, own, drawn, objects[part, None])
    return AveragePrecision(*np.where(objects > 0, found, np.nan))


def _equal(one: Events, other: Events) -> bool:
    """Whether two overlaps have the same events, as they often do where few detections are hits."""
    return len(one.hit) == len(other.hit) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("after", "image", "hit", "change")
    )


def _so_far(curve: Curve, draws: Floats) -> Floats:
    """The drawn own detections up to the end of each stretch, 0 before the first: (R, stretches + 1)."""
    so_far = np.zeros((len(draws), len(curve.starts) + 1))
    if len(curve.starts):
        stretches = np.add.reduceat(draws.take(curve.own, axis=1), curve.starts, axis=1)
        np.cumsum(stretches, axis=1, out=so_far[:, 1:])
    return so_far


def _under_envelope(events: Events, own: Floats, drawn: Floats, objects: Floats) -> tuple[Floats, Floats]:
    """The area, and the recall, from the own detections so far and how often each event is drawn, (R, E)."""
    if not drawn.shape[1]:
        return np.zeros(len(drawn)), np.zeros(len(drawn))
    hits = np.cumsum(drawn if events.hit.all() else drawn * events.hit, axis=1)
    counted = own.take(events.after, axis=1)
    if events.change.any():
        counted += np.cumsum(drawn * events.change, axis=1)
    # No hits so far where nothing is counted: 0 of anything is 0.
    precision = np.divide(hits, np.maximum(counted, _TINY, out=counted), out=counted)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1, out=precision[:, ::-1])[:, ::-1]
    recall = np.divide(hits, np.maximum(objects, _TINY), out=hits)
    reached = _recalls_up_to(recall)
    # Each step of the envelope is as wide as the recalls that are reached there and not before.
    area = np.einsum("re,re->r", envelope, reached) - np.einsum("re,re->r", envelope[:, 1:], reached[:, :-1])
    return area / len(RECALLS), recall[:, -1]


def _recalls_up_to(recall: Floats) -> Floats:
    """How many of the 101 recalls are reached: exactly those <= recall, which rounding of 100 * recall would miss."""
    last = recall * 100
    last += 1e-6
    index = np.minimum(last, 100, out=last).astype(np.intp)
    reached: Floats = (index + (RECALLS.take(index) <= recall)).astype(np.float64)
    return reached
