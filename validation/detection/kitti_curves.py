"""Matching by the protocol of KITTI: what a threshold on the score finds and makes up, for every threshold at once.

Unlike COCO's, the objects choose, in the order of the label file; what one takes depends on the threshold. A small
detection of any class may be taken, and then counts neither way.

Source: KITTI object development kit, evaluate_object.cpp (2017 and later): cleanData, computeStatistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from avcompress.spec import Array
from validation.detection.greedy import choose
from validation.detection.pairs import Pairs, meet, over_own, over_union
from validation.detection.ranked import Bools, Floats, Ints, place_in_group
from validation.predictions import BoxPredictions
from validation.truth import Objects

if TYPE_CHECKING:
    from validation.detection.tally import Within


class Level(NamedTuple):
    """Of difficulty: objects that are smaller, or more hidden, count neither way."""

    min_height: float
    max_occlusion: float
    max_truncation: float


LEVELS = {"easy": Level(40, 0, 0.15), "moderate": Level(25, 1, 0.3), "hard": Level(25, 2, 0.5)}
MIN_OVERLAP = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
ATTRIBUTES = ("type", "occlusion_level", "truncated")
"""What a label file tells of each object: its own type, occluded (0-3), truncated (0-1)."""


@dataclass(frozen=True, eq=False)
class KittiCurve:
    """One class at one level of difficulty.

    Attributes:
        objects: image of each object that counts.
        hit_image: (V,) of the hits when each object takes the best score, best first.
        hit_score: (V,).
        image: (E,) of each change, from the highest threshold to the lowest.
        score: (E,) the threshold at which it happens.
        hits: (E,) by how much the hits change.
        alarms: (E,) by how much the false alarms do.
    """

    objects: Ints
    hit_image: Ints
    hit_score: Floats
    image: Ints
    score: Floats
    hits: Floats
    alarms: Floats


@dataclass(frozen=True, eq=False)
class _Class:
    """What one class asks of detections and objects.

    Attributes:
        pairs: of an image, overlapping enough.
        valid: (N,) objects of the class.
        taken: (N,) objects that can be taken: those and their neighbours in kind.
        own: (M,) detections of the class.
        alarm: (M,) those of them that are false alarms unless taken: inside the part, and in no DontCare region.
    """

    pairs: Pairs
    valid: Bools
    taken: Bools
    own: Bools
    alarm: Bools


def tells_kitti(objects: Objects) -> bool:
    """Whether the labels tell all that KITTI's levels of difficulty ask for."""
    kinds = [objects.attributes[name].dtype.kind for name in ATTRIBUTES if name in objects.attributes]
    return kinds == ["U", "f", "f"]


def draw_kitti_curves(
    found: BoxPredictions, objects: Objects, within: Within | None, classes: int
) -> list[list[KittiCurve]]:
    """The curve of every class at every level: 3 lists of C.

    A class is judged as what its objects are by the label file's own type: Car, Pedestrian or Cyclist; another class
    has no objects to find.
    """
    kinds = np.char.lower(objects.attributes["type"].astype(np.str_))
    alarming = np.ones(len(found.labels), np.bool_)
    if within is not None and within.detections is not None:
        alarming = within.detections
    # Few of a network's classes are KITTI's: the others would cost as much, in every slice, and have no figure.
    labelled = set(objects.labels[np.isin(kinds, list(MIN_OVERLAP))].tolist())
    judged = {index: _of_class(found, objects, kinds, alarming, index) for index in labelled}
    inside = np.ones(len(objects.labels), np.bool_) if within is None else within.objects
    return [
        [
            _curve(found, objects, judged[index], level, inside) if index in judged else _no_objects()
            for index in range(classes)
        ]
        for level in LEVELS.values()
    ]


def _no_objects() -> KittiCurve:
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    return KittiCurve(whole, whole, real, whole, real, real, real)


def _of_class(found: BoxPredictions, objects: Objects, kinds: Array, alarming: Bools, index: int) -> _Class:
    own = found.labels == index
    mine = {kind for kind in MIN_OVERLAP if ((kinds == kind) & (objects.labels == index)).any()}
    least = max((MIN_OVERLAP[kind] for kind in mine), default=1.0)
    valid = np.isin(kinds, list(mine)) & (objects.labels == index)
    taken = valid | np.isin(kinds, [NEIGHBOURS[kind] for kind in mine if kind in NEIGHBOURS])
    alarm = own & alarming & ~_covered(found, objects, np.flatnonzero(kinds == "dontcare"), least)
    return _Class(_overlapping(found, objects, np.flatnonzero(taken), least), valid, taken, own, alarm)


def _overlapping(found: BoxPredictions, objects: Objects, taken: Ints, least: float) -> Pairs:
    detection, which = meet(found.image, objects.image[taken])
    pairs = Pairs(detection, taken[which], over_union(*_boxes(found, objects, detection, taken[which])))
    return pairs.take(np.flatnonzero(pairs.overlap > least))


def _covered(found: BoxPredictions, objects: Objects, regions: Ints, least: float) -> Bools:
    detection, which = meet(found.image, objects.image[regions])
    share = over_own(*_boxes(found, objects, detection, regions[which]))
    covered = np.zeros(len(found.labels), np.bool_)
    covered[detection[share > least]] = True
    return covered


def _boxes(found: BoxPredictions, objects: Objects, detection: Ints, which: Ints) -> tuple[Floats, Floats]:
    return found.xyxy[detection].astype(np.float64), objects.xyxy[which].astype(np.float64)


def _heights(xyxy: Floats) -> Floats:
    height: Floats = xyxy[:, 3].astype(np.float64) - xyxy[:, 1]
    return height


def _curve(found: BoxPredictions, objects: Objects, judged: _Class, level: Level, inside: Bools) -> KittiCurve:
    hidden = (objects.attributes["occlusion_level"] > level.max_occlusion) | (
        objects.attributes["truncated"] > level.max_truncation
    )
    counts = judged.valid & inside & ~objects.ignore & ~hidden & (_heights(objects.xyxy) > level.min_height)
    small = _heights(found.xyxy) < level.min_height
    usable = small | judged.own
    pairs = judged.pairs.take(np.flatnonzero(usable[judged.pairs.detection]))
    full, alarm = ~small & judged.own, ~small & judged.alarm
    scored = _best_scored(found, pairs, objects)
    hits = scored.take(np.flatnonzero(counts[scored.object] & full[scored.detection])).detection
    hits = hits[np.argsort(-found.scores[hits], kind="stable")]
    changes = _changes(found, objects, pairs, (counts, full, alarm))
    order = np.argsort(-changes.score, kind="stable")
    return KittiCurve(
        objects.image[counts],
        found.image[hits],
        found.scores[hits],
        changes.image[order],
        changes.score[order],
        changes.hits[order],
        changes.alarms[order],
    )


class _Changes(NamedTuple):
    image: Ints
    score: Floats
    hits: Floats
    alarms: Floats


def _best_scored(found: BoxPredictions, pairs: Pairs, objects: Objects) -> Pairs:
    """The pairs made when each object takes its best score, of equal ones the first."""
    turn = _turns(pairs, objects)
    order = np.lexsort((-pairs.detection, found.scores[pairs.detection], pairs.object, turn))
    ordered = pairs.take(order)
    everything = np.ones((len(order), 1), np.bool_)
    once = np.ones(len(found.labels), np.bool_)
    made = choose(turn[order], ordered.object, ordered.detection, everything, everything, once)
    return ordered.take(np.flatnonzero(made[:, 0]))


def _changes(found: BoxPredictions, objects: Objects, pairs: Pairs, kinds: tuple[Bools, Bools, Bools]) -> _Changes:
    """What each threshold adds: every detection that is a false alarm unless taken, and what the objects take then."""
    counts, full, alarm = kinds
    turn, step, row = _turns(pairs, objects), *_steps(found, pairs)
    # A full detection before a small one; of equal overlaps, and of small ones, the first.
    worth = np.where(full[pairs.detection], pairs.overlap, 0.0)
    order = np.lexsort((-pairs.detection, worth, pairs.object, turn))
    pairs, turn, step, row = pairs.take(order), turn[order], step[order], row[order]
    rows, steps = int(row.max(initial=-1)) + 1, int(step.max(initial=-1)) + 1
    eligible = step[:, None] <= np.arange(steps)
    once = np.ones(len(found.labels), np.bool_)
    made = choose(turn, pairs.object, pairs.detection, eligible, np.ones_like(eligible), once)
    image, score = np.zeros(rows, np.int64), np.zeros((rows, steps))
    image[row], score[row, step] = found.image[pairs.detection], found.scores[pairs.detection]
    hits = _gained(made & (counts[pairs.object] & full[pairs.detection])[:, None], row, rows)
    taken = _gained(made & alarm[pairs.detection][:, None], row, rows)
    told = np.nonzero((hits != 0) | (taken != 0))
    alarms = np.flatnonzero(alarm)
    return _Changes(
        np.concatenate([found.image[alarms], image[told[0]]]),
        np.concatenate([found.scores[alarms].astype(np.float64), score[told]]),
        np.concatenate([np.zeros(len(alarms)), hits[told]]),
        np.concatenate([np.ones(len(alarms)), -taken[told]]),
    )


def _turns(pairs: Pairs, objects: Objects) -> Ints:
    """(P,) how many earlier objects of the pair's image have a detection that overlaps."""
    involved, where = np.unique(pairs.object, return_inverse=True)
    return place_in_group(objects.image[involved])[where]


def _steps(found: BoxPredictions, pairs: Pairs) -> tuple[Ints, Ints]:
    """(P,) how many higher scores the detections in the image's pairs have, and (P,) a number for the image."""
    detection, where = np.unique(pairs.detection, return_inverse=True)
    image, score = found.image[detection], found.scores[detection]
    levels, which = np.unique(np.stack([image, -score.astype(np.float64)]), axis=1, return_inverse=True)
    _, row = np.unique(levels[0], return_inverse=True)
    # NumPy 2.0 gives the inverse of columns as a row.
    own = which.reshape(-1)[where]
    return place_in_group(row)[own], row[own]


def _gained(made: Bools, row: Ints, rows: int) -> Floats:
    """By image and step, how many more pairs are made than one step before."""
    total = np.zeros((rows, made.shape[1]))
    np.add.at(total, row, made)
    return np.diff(total, axis=1, prepend=0)
