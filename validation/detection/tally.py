"""A network's detections held against the labels: matched once, then figures under any weights of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avcompress.spec import DataError
from validation.detection.average_precision import AveragePrecision, average_precision
from validation.detection.curves import Curve, draw_curves
from validation.detection.kitti_curves import LEVELS, KittiCurve, draw_kitti_curves, tells_kitti
from validation.detection.kitti_precision import kitti_precision
from validation.detection.matches import OVERLAPS, check_labels, match
from validation.detection.operating_point import (
    RATES,
    OperatingPoint,
    calibration_error,
    operate,
    rates,
    restore_precision,
)
from validation.detection.pairs import box_area
from validation.detection.ranked import Bools, Floats, check_detections, rank
from validation.detection.weighting import mean_known
from validation.predictions import BoxPredictions
from validation.truth import Objects, Truth

SIZES = {"": (0.0, 1e10), "_small": (0.0, 32.0**2), "_medium": (32.0**2, 96.0**2), "_large": (96.0**2, 1e10)}
"""Of COCO: from and to in square pixels, both ends in it; "" is every size."""
BY_SIZE = tuple(f"AP{name}" for name in SIZES if name)
AVERAGES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")


@dataclass(frozen=True, eq=False)
class Within:
    """A part of a validation set.

    Attributes:
        objects: (N,) bool; those outside are ignored.
        detections: (M,) bool; those outside are no false alarms when they are not matched. None: all are inside.
    """

    objects: Bools
    detections: Bools | None = None


@dataclass(frozen=True, eq=False)
class BoxTally:
    """What figures are taken from.

    Attributes:
        classes: the class table.
        images: how many there are.
        objects: labelled objects that count.
        curves: of COCO, by SIZES, by class.
        point: the detections at work.
        kitti: by level of LEVELS, by class; None where the labels do not tell what KITTI asks for.
    """

    classes: tuple[str, ...]
    images: int
    objects: int
    curves: list[list[Curve]]
    point: OperatingPoint
    kitti: list[list[KittiCurve]] | None

    def figures(self, weights: Floats, sizes: bool = True) -> dict[str, Floats]:
        """Each figure of `box_metric_names`, (R,), under weights of the images (I, R), which are not negative.

        Weights of one give the figures themselves; a column of how often each image was drawn, one bootstrap resample.
        Without `sizes` those of BY_SIZE, which take half the time, are left out.
        """
        draws = np.ascontiguousarray(weights.T, np.float64)
        found = self.averages(draws, sizes) | rates(self.point, self.classes, draws)
        found["ece"] = calibration_error(self.point, draws)
        if self.kitti is not None:
            for level, curves in zip(LEVELS, self.kitti, strict=True):
                by_class = np.array([kitti_precision(curve, draws) for curve in curves])
                found |= _by_name(f"AP40_{level}", by_class, self.classes)
        return {name: found[name] for name in box_metric_names(self.classes, self.kitti is not None) if name in found}

    def averages(self, draws: Floats, sizes: bool = True) -> dict[str, Floats]:
        """Those of AVERAGES, and AP/CLASS and AP50/CLASS, under draws (R, I)."""
        wanted = self.curves if sizes else self.curves[:1]
        everything, *others = ([average_precision(curve, draws) for curve in by_class] for by_class in wanted)
        found = _by_name("AP", _precision(everything), self.classes)
        found |= _by_name("AP50", np.array([each.precision[0] for each in everything]), self.classes)
        found["AP75"] = mean_known(np.array([each.precision[5] for each in everything]))
        found["AR"] = mean_known(np.array([each.recall.mean(axis=0) for each in everything]))
        for name, by_class in zip(BY_SIZE, others, strict=False):
            found[name] = mean_known(_precision(by_class))
        return found


def box_metric_names(classes: Sequence[str], kitti: bool) -> tuple[str, ...]:
    """The names of BoxTally's figures; those of KITTI where the labels tell what it asks for."""
    levels = [f"AP40_{level}" for level in LEVELS] if kitti else []
    by_class = [f"{name}/{each}" for name in ("AP", "AP50", *RATES, *levels) for each in classes]
    return (*AVERAGES, *RATES, "ece", *levels, *by_class)


def tally_boxes(truth: Truth, found: BoxPredictions, threshold: float, within: Within | None = None) -> BoxTally:
    """Match the detections with the objects, in all of the set or in a part of it.

    An ignored object is a COCO crowd: a detection inside it counts neither way. One that is ALIASED_AWAY is ignored for
    every class. The size of an object is its label's area.

    Args:
        truth: boxes as labels.
        found: as many images, in the same order.
        threshold: the score from which the detector's user is told of a detection.
        within: which part; default: everything.

    Raises:
        DataError: nothing is labelled with boxes, no object at all, or one of a class outside the table; or the
            predictions are of other images.
        EngineError: a box or score is not finite, or a class is outside the table.
    """
    objects = _labelled(truth)
    if found.names != truth.names:
        raise DataError(
            f"predictions: expected those of the {len(truth.names)} labelled images, in their order, got others "
            f"({len(found.names)}); predict on the images that the labels are of"
        )
    check_detections(found, truth.names, len(truth.classes))
    ranked = rank(found)
    inside = np.ones(len(ranked.rows), np.bool_)
    counts = ~objects.ignore
    if within is not None:
        counts = counts & within.objects
        inside = inside if within.detections is None else within.detections[ranked.rows]
    low, high = np.array(list(SIZES.values())).T[:, :, None]
    area = box_area(ranked.xyxy)
    # As pycocotools asks, so that an unknown area, NaN, is of every size.
    matches = match(ranked, objects, counts & ~((objects.area < low) | (objects.area > high)), OVERLAPS)
    inside_sizes = inside & ~((area < low) | (area > high))
    return BoxTally(
        truth.classes,
        len(truth.names),
        int(counts.sum()),
        draw_curves(matches, inside_sizes, len(truth.classes)),
        operate(matches, inside_sizes[0], len(truth.classes), threshold),
        draw_kitti_curves(found, objects, within, len(truth.classes)) if tells_kitti(objects) else None,
    )


def restoring_threshold(tally: BoxTally, precision: float) -> float:
    """The lowest score threshold at which the precision over all classes is at least that; NaN where none is."""
    return restore_precision(tally.point, precision)


def _labelled(truth: Truth) -> Objects:
    if truth.objects is None:
        raise DataError("validation labels: expected labelled boxes, got none; give a labelled validation source")
    check_labels(truth.objects, len(truth.classes))
    if truth.objects.ignore.all():
        raise DataError(
            f"validation labels: expected an object to find in {len(truth.names)} images, got none; "
            "check the class names (`aliases`, `classes`)"
        )
    return truth.objects


def _precision(by_class: Sequence[AveragePrecision]) -> Floats:
    return np.array([each.precision.mean(axis=0) for each in by_class])


def _by_name(name: str, by_class: Floats, classes: Sequence[str]) -> dict[str, Floats]:
    return {name: mean_known(by_class), **{f"{name}/{each}": by_class[index] for index, each in enumerate(classes)}}
