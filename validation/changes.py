"""Which objects and pixels a network lost or gained against its reference, and the images where it shows most."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from avcompress.spec import Array
from calibration.sample import VOID
from validation.detection.matches import match
from validation.detection.pairs import meet, over_union
from validation.detection.ranked import rank
from validation.mask_png import decode_mask
from validation.predictions import BoxPredictions, MaskPredictions, Predictions
from validation.truth import Objects, Truth

OVERLAP = 0.5
"""Intersection over union from which a detection finds an object, and two false alarms are the same one."""


@dataclass(frozen=True)
class ObjectChange:
    """A labelled object as both networks see it.

    Attributes:
        image: index of its image.
        label: index into the class table.
        xyxy: pixels of the image.
        reference_score: of the reference's detection of it, also below the threshold; NaN where there is none.
        network_score: of the network's.
    """

    image: int
    label: int
    xyxy: tuple[float, float, float, float]
    reference_score: float
    network_score: float

    @property
    def move(self) -> float:
        """How much surer the network is than the reference; NaN where one of them has no detection there at all."""
        return self.network_score - self.reference_score


@dataclass(frozen=True)
class FalseAlarm:
    """A detection at or above the threshold that no object answers to.

    Attributes:
        image: index of its image.
        label: index into the class table.
        xyxy: pixels of the image.
        score: the detection's own.
        other_score: of the other network's best one there that finds no object either; NaN where there is none.
    """

    image: int
    label: int
    xyxy: tuple[float, float, float, float]
    score: float
    other_score: float


@dataclass(frozen=True)
class ClassChange:
    """What changed in one class.

    Attributes:
        name: of the class.
        objects: labelled ones that count.
        lost: those that the reference finds and the network does not.
        lost_below_threshold: those of them that the network detects too, but with a score below the threshold.
        gained: those that only the network finds.
        mean_move: mean change of score of the objects that the reference finds and the network detects with any score.
        worst_move: the one of them whose score fell most; None where there is none.
        new_alarms: the network's false alarms that the reference does not raise.
        vanished_alarms: the reference's that the network does not raise.
    """

    name: str
    objects: int
    lost: int
    lost_below_threshold: int
    gained: int
    mean_move: float
    worst_move: ObjectChange | None
    new_alarms: int
    vanished_alarms: int


@dataclass(frozen=True)
class ImageChange:
    """How many objects and false alarms changed in one image; `fall` is the sum of its objects' falls in score."""

    image: int
    name: str
    lost: int
    gained: int
    new_alarms: int
    vanished_alarms: int
    fall: float


@dataclass(frozen=True)
class BoxChanges:
    """What changed in detections; every tuple in the order of images, then of the labels or of the scores.

    Attributes:
        threshold: the score from which a detection counts.
        lost: objects that the reference finds and the network does not.
        gained: objects that only the network finds.
        moved: objects that the reference finds and the network detects with any score: those of `mean_move`.
        new_alarms: the network's false alarms that the reference does not raise.
        vanished_alarms: the reference's that the network does not raise.
        classes: by class, in the order of the class table.
        worst: the images with a lost object or a new false alarm: most objects lost first, then most new false alarms,
            then the largest fall in score, then in their order.
    """

    threshold: float
    lost: tuple[ObjectChange, ...]
    gained: tuple[ObjectChange, ...]
    moved: tuple[ObjectChange, ...]
    new_alarms: tuple[FalseAlarm, ...]
    vanished_alarms: tuple[FalseAlarm, ...]
    classes: tuple[ClassChange, ...]
    worst: tuple[ImageChange, ...]


@dataclass(frozen=True)
class PixelChange:
    """Labelled pixels of one class or one image.

    Attributes:
        name: of the class or the image.
        index: in the class table, or of the image.
        labelled: all of them.
        worse: those that the reference has right and the network has not.
        better: those that only the network has right.
    """

    name: str
    index: int
    labelled: int
    worse: int
    better: int


@dataclass(frozen=True)
class MaskChanges:
    """What changed in masks.

    Attributes:
        classes: by class of the label, in the order of the class table.
        worst: the images with a pixel for the worse: most `worse` beyond `better` first, then most worse, then in
            their order.
    """

    classes: tuple[PixelChange, ...]
    worst: tuple[PixelChange, ...]


Changes = BoxChanges | MaskChanges


def find_changes(truth: Truth, reference: Predictions, network: Predictions, threshold: float | None = None) -> Changes:
    """What the network sees otherwise than the reference, of the same images.

    Args:
        truth: the labels.
        reference: predictions of what the network should be as good as.
        network: predictions of the network that is judged.
        threshold: the score from which a detection counts; of detection only, and needed there.

    Raises ValueError when the predictions or labels are not of the same task.
    """
    if isinstance(reference, MaskPredictions) and isinstance(network, MaskPredictions):
        return find_mask_changes(truth, reference, network)
    if isinstance(reference, BoxPredictions) and isinstance(network, BoxPredictions) and threshold is not None:
        return find_box_changes(truth, reference, network, threshold)
    raise ValueError("changes: expected two networks of one task, and a score threshold where they detect")


def find_box_changes(truth: Truth, reference: BoxPredictions, network: BoxPredictions, threshold: float) -> BoxChanges:
    """The objects that count, matched with both networks' detections as COCO does at OVERLAP; and the false alarms."""
    objects = truth.objects
    if objects is None:
        raise ValueError("changes of detections: expected labelled objects, got masks")
    before, after = _see(reference, objects), _see(network, objects)
    found, finds = before.scores >= threshold, after.scores >= threshold
    changed = _Changed(
        lost=_objects(objects, before, after, found & ~finds),
        gained=_objects(objects, before, after, finds & ~found),
        moved=_objects(objects, before, after, found & ~np.isnan(after.scores)),
        new=_alarms(after, before, threshold),
        vanished=_alarms(before, after, threshold),
    )
    labels = objects.labels[~objects.ignore]
    return BoxChanges(
        threshold,
        changed.lost,
        changed.gained,
        changed.moved,
        changed.new,
        changed.vanished,
        tuple(
            _class_change(name, int((labels == index).sum()), part)
            for index, (name, part) in enumerate(
                zip(truth.classes, changed.by("label", len(truth.classes)), strict=True)
            )
        ),
        _worst(truth.names, changed.by("image", len(truth.names))),
    )


def find_mask_changes(truth: Truth, reference: MaskPredictions, network: MaskPredictions) -> MaskChanges:
    """The labelled pixels that only one of both networks has right."""
    if truth.masks is None:
        raise ValueError("changes of masks: expected labelled masks, got objects")
    counts = np.zeros((len(truth.names), 3, len(truth.classes)), np.int64)
    masks = zip(truth.names, truth.masks, reference.masks, network.masks, strict=True)
    for index, (name, *pngs) in enumerate(masks):
        label, before, after = (decode_mask(png, name) for png in pngs)
        was, is_now = before == label, after == label
        for kind, where in enumerate((label != VOID, was & ~is_now, is_now & ~was)):
            counts[index, kind] = np.bincount(label[where], minlength=VOID + 1)[: len(truth.classes)]
    images = _pixel_changes(truth.names, counts.sum(axis=2))
    worst = sorted(images, key=lambda each: (each.better - each.worse, -each.worse, each.index))
    return MaskChanges(_pixel_changes(truth.classes, counts.sum(axis=0).T), tuple(each for each in worst if each.worse))


@dataclass(frozen=True, eq=False)
class _Sight:
    """What one network sees.

    Attributes:
        scores: (N,) float32, of the detection that finds each object; NaN where none does or the object is ignored.
        false: the detections that find nothing, not even what is ignored.
    """

    scores: Array
    false: BoxPredictions


def _see(found: BoxPredictions, objects: Objects) -> _Sight:
    ranked = rank(found)
    matches = match(ranked, objects, ~objects.ignore[None], np.array([OVERLAP]))
    made = matches.made[:, 0, 0]
    detection, which = matches.pairs.detection[made], matches.pairs.object[made]
    scores = np.full(len(objects.labels), np.nan, np.float32)
    counts = ~objects.ignore[which]
    scores[which[counts]] = ranked.scores[detection[counts]]
    false = np.zeros(len(found.labels), np.bool_)
    false[ranked.rows] = True  # what is beyond the best hundred of a class in an image is not looked at
    false[ranked.rows[detection]] = False
    return _Sight(scores, found.keep(false))


def _objects(objects: Objects, before: _Sight, after: _Sight, which: Array) -> tuple[ObjectChange, ...]:
    return tuple(
        ObjectChange(
            int(objects.image[index]),
            int(objects.labels[index]),
            _corners(objects.xyxy[index]),
            float(before.scores[index]),
            float(after.scores[index]),
        )
        for index in np.flatnonzero(which)
    )


def _alarms(raising: _Sight, other: _Sight, threshold: float) -> tuple[FalseAlarm, ...]:
    """The false alarms of one network that the other does not raise."""
    raised, others = raising.false.keep(raising.false.scores >= threshold), other.false
    raised = raised.keep(np.lexsort((-raised.scores, raised.image)))
    classes = int(max(raised.labels.max(initial=0), others.labels.max(initial=0))) + 1
    one, two = meet(raised.image * classes + raised.labels, others.image * classes + others.labels)
    same = over_union(raised.xyxy[one].astype(np.float64), others.xyxy[two].astype(np.float64)) >= OVERLAP
    best = np.full(len(raised.labels), np.nan, np.float32)
    np.fmax.at(best, one[same], others.scores[two[same]])
    return tuple(
        FalseAlarm(
            int(raised.image[index]),
            int(raised.labels[index]),
            _corners(raised.xyxy[index]),
            float(raised.scores[index]),
            float(best[index]),
        )
        for index in np.flatnonzero(~(best >= threshold))
    )


@dataclass(frozen=True)
class _Changed:
    """All that changed, or the part of it in one class or image; `moved` are objects that both networks detect."""

    lost: tuple[ObjectChange, ...] = ()
    gained: tuple[ObjectChange, ...] = ()
    moved: tuple[ObjectChange, ...] = ()
    new: tuple[FalseAlarm, ...] = ()
    vanished: tuple[FalseAlarm, ...] = ()

    def by(self, key: Literal["image", "label"], size: int) -> list[_Changed]:
        """The parts with each value of `key` below `size`."""
        parts: list[dict[str, list[Any]]] = [defaultdict(list) for _ in range(size)]
        for kind in fields(self):
            for each in getattr(self, kind.name):
                parts[getattr(each, key)][kind.name].append(each)
        return [_Changed(**{name: tuple(each) for name, each in part.items()}) for part in parts]


def _class_change(name: str, objects: int, part: _Changed) -> ClassChange:
    moves = [each.move for each in part.moved]
    return ClassChange(
        name=name,
        objects=objects,
        lost=len(part.lost),
        lost_below_threshold=sum(not math.isnan(each.network_score) for each in part.lost),
        gained=len(part.gained),
        mean_move=math.fsum(moves) / len(moves) if moves else math.nan,
        worst_move=min(part.moved, key=lambda each: each.move, default=None),
        new_alarms=len(part.new),
        vanished_alarms=len(part.vanished),
    )


def _worst(names: tuple[str, ...], by_image: list[_Changed]) -> tuple[ImageChange, ...]:
    images = [
        ImageChange(
            image,
            name,
            len(part.lost),
            len(part.gained),
            len(part.new),
            len(part.vanished),
            math.fsum(max(0.0, -each.move) for each in part.moved),
        )
        for image, (name, part) in enumerate(zip(names, by_image, strict=True))
        if part.lost or part.new
    ]
    return tuple(sorted(images, key=lambda each: (-each.lost, -each.new_alarms, -each.fall, each.image)))


def _pixel_changes(names: tuple[str, ...], counts: Array) -> tuple[PixelChange, ...]:
    """From (names, 3) pixels: labelled, worse, better."""
    return tuple(PixelChange(name, index, *counts[index].tolist()) for index, name in enumerate(names))


def _corners(xyxy: Array) -> tuple[float, float, float, float]:
    left, top, right, bottom = xyxy.tolist()
    return left, top, right, bottom
