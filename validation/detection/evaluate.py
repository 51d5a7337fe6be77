"""COCO average precision of detections, straight from images and what was found in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from avcompress.spec import DataError
from validation.detection.tally import AVERAGES, tally_boxes
from validation.predictions import BoxPredictions
from validation.truth import Objects, Truth

if TYPE_CHECKING:
    from calibration.sample import Boxes, Sample
    from engines.postprocess import Detections


@dataclass(frozen=True)
class DetectionMetrics:
    """COCO figures by name, 0-1, and how much they rest on.

    Attributes:
        metrics: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR (100 detections an image), then AP/<class> and
            AP50/<class>. NaN where the labels hold no such object; such a class is left out of every mean.
        images: the number of images.
        objects: the number of labelled objects, ignored ones apart.
    """

    metrics: Mapping[str, float]
    images: int
    objects: int


def detection_metric_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names that evaluate_detection gives its figures."""
    return (*AVERAGES, *(f"AP/{name}" for name in classes), *(f"AP50/{name}" for name in classes))


def evaluate_detection(pairs: Iterable[tuple[Sample, Detections]], classes: Sequence[str]) -> DetectionMetrics:
    """COCO AP over all the pairs.

    An ignored object is a COCO crowd: a detection inside it counts neither way. One that is ALIASED_AWAY is ignored for
    every class. An object's size is its label's `area`, in square pixels of the image.

    Raises:
        DataError: a sample has no labels at all, or no sample has an object to be found.
        EngineError: a box or a score is not finite, or a label is outside the class table.
    """
    names: list[str] = []
    labelled: list[Boxes] = []
    detected: list[Detections] = []
    for sample, detections in pairs:
        if sample.boxes is None:
            raise DataError(f"{sample.name}: expected labelled boxes, got none; give a labelled validation source")
        names.append(sample.name)
        labelled.append(sample.boxes)
        detected.append(detections)
    truth = _truth(names, labelled, tuple(classes))
    tally = tally_boxes(truth, _predictions(names, detected), 0.0)
    figures = tally.averages(np.ones((1, len(names))))
    metrics = {name: float(figures[name][0]) for name in detection_metric_names(classes)}
    return DetectionMetrics(metrics, len(names), tally.objects)


def _truth(names: Sequence[str], labelled: Sequence[Boxes], classes: tuple[str, ...]) -> Truth:
    """Without what slices need."""
    images = np.repeat(np.arange(len(names)), [len(boxes.labels) for boxes in labelled])
    xyxy = np.concatenate([np.zeros((0, 4), np.float32), *(boxes.xyxy for boxes in labelled)])
    labels = np.concatenate([np.zeros(0, np.int64), *(boxes.labels for boxes in labelled)])
    ignore = np.concatenate([np.zeros(0, np.bool_), *(boxes.ignore for boxes in labelled)])
    area = np.concatenate([np.zeros(0), *(boxes.area for boxes in labelled)])
    objects = Objects(images, xyxy, labels, ignore, area, {})
    sizes, brightness = np.zeros((len(names), 2), np.int32), np.zeros(len(names), np.float32)
    return Truth(tuple(names), classes, "", sizes, brightness, {}, objects)


def _predictions(names: Sequence[str], detected: Sequence[Detections]) -> BoxPredictions:
    return BoxPredictions(
        tuple(names),
        np.repeat(np.arange(len(names)), [len(found.labels) for found in detected]),
        np.concatenate([np.zeros((0, 4), np.float32), *(found.xyxy for found in detected)]),
        np.concatenate([np.zeros(0, np.float32), *(found.scores for found in detected)]),
        np.concatenate([np.zeros(0, np.int64), *(found.labels for found in detected)]),
    )
