"""Matching of detections and objects by the protocol of COCO, for all images, overlaps and size ranges at once.

Source: pycocotools cocoeval.py, evaluateImg; https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avcompress.spec import DataError
from calibration.sample import ALIASED_AWAY
from validation.detection.greedy import choose
from validation.detection.pairs import Pairs, meet, over_own, over_union
from validation.detection.ranked import Bools, Floats, Ints, Ranked, place_in_group
from validation.truth import Objects

OVERLAPS: Floats = np.linspace(0.5, 0.95, 10)
"""The intersections over union from which a detection can be a hit."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Which pairs were made, in A ranges of size at T overlaps.

    Attributes:
        found: the detections.
        objects: the labels.
        counts: (A, N) bool, the objects that count in each range: what is matched to one is a hit, to another one
            counts neither way.
        pairs: every detection and object that could have been matched.
        made: (P, A, T) bool, the pair was made.
    """

    found: Ranked
    objects: Objects
    counts: Bools
    pairs: Pairs
    made: Bools


def match(found: Ranked, objects: Objects, counts: Bools, overlaps: Floats = OVERLAPS) -> Matches:
    """Give each detection, best first, the object of its class that it overlaps most, if none better has it already.

    An object that does not count is given away last. An ignored one takes any number of detections, by the share of
    the detection that lies in it.

    Args:
        found: the detections.
        objects: the labels; ALIASED_AWAY ones are met by every class.
        counts: (A, N) bool, the objects that count in each range; never an ignored one.
        overlaps: (T,), ascending.
    """
    pairs = _overlapping(found, objects, overlaps[0])
    turn = _turns(pairs.detection, found)
    # Of equal overlaps pycocotools takes the last object.
    order = np.lexsort((pairs.object, pairs.overlap, pairs.detection, turn))
    pairs, turn = pairs.take(order), turn[order]
    made = choose(
        turn,
        pairs.detection,
        pairs.object,
        np.tile(pairs.overlap[:, None] >= overlaps, (1, len(counts))),
        np.repeat(counts.T[pairs.object], len(overlaps), axis=1),
        ~objects.ignore,
    )
    return Matches(found, objects, counts, pairs, made.reshape(len(turn), len(counts), len(overlaps)))


def check_labels(objects: Objects, classes: int) -> None:
    """Raise DataError when an object that is not ignored has a class outside the table."""
    unknown = ((objects.labels < 0) | (objects.labels >= classes)) & ~objects.ignore
    if unknown.any():
        raise DataError(
            f"validation labels: expected class indices below {classes}, got {int(objects.labels[unknown][0])}; "
            "check `classes`"
        )


def _overlapping(found: Ranked, objects: Objects, least: float) -> Pairs:
    classes = int(max(found.labels.max(initial=0), objects.labels.max(initial=0))) + 1
    everywhere = objects.labels <= ALIASED_AWAY
    own = np.flatnonzero(~everywhere)
    detection, which = meet(found.image * classes + found.labels, objects.image[own] * classes + objects.labels[own])
    met, anyone = meet(found.image, objects.image[everywhere])
    detection = np.concatenate([detection, met])
    others = np.concatenate([own[which], np.flatnonzero(everywhere)[anyone]])
    a, b = found.xyxy[detection], objects.xyxy[others].astype(np.float64)
    overlap = np.where(objects.ignore[others], over_own(a, b), over_union(a, b))
    return Pairs(detection, others, overlap).take(np.flatnonzero(overlap >= least))


def _turns(detection: Ints, found: Ranked) -> Ints:
    """(P,) how many better detections with a candidate there are in the pair's image and class."""
    involved, where = np.unique(detection, return_inverse=True)
    groups = found.image[involved] * (found.labels.max(initial=0) + 1) + found.labels[involved]
    return place_in_group(groups)[where]
