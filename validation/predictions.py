"""What one network said of every image of a validation set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from avcompress.spec import Array, DataError, EngineError
from calibration.sample import Sample
from engines.postprocess import Detections
from validation.mask_png import encode_mask
from validation.predict import Prediction


@dataclass(frozen=True, eq=False)
class BoxPredictions:
    """The detections of all images, image after image.

    Attributes:
        names: of the images, in the order of the labels.
        image: (M,) int64, index of the detection's image.
        xyxy: (M, 4) float32, pixels of the image.
        scores: (M,) float32, 0-1.
        labels: (M,) int64, index into the class table.
    """

    names: tuple[str, ...]
    image: Array
    xyxy: Array
    scores: Array
    labels: Array


@dataclass(frozen=True, eq=False)
class MaskPredictions:
    """The predicted mask of every image: a PNG of (H, W) uint8, the image's own size."""

    names: tuple[str, ...]
    masks: tuple[bytes, ...]


Predictions = BoxPredictions | MaskPredictions


def collect(pairs: Iterable[tuple[Sample, Prediction]], classes: Sequence[str]) -> Predictions:
    """Gather what `predict` yields; raises DataError without an image, EngineError for a class beyond the table."""
    names: list[str] = []
    boxes: list[Detections] = []
    masks: list[bytes] = []
    for sample, found in pairs:
        names.append(sample.name)
        if isinstance(found, Detections):
            _require_classes(found, classes, sample.name)
            boxes.append(found)
        else:
            masks.append(encode_mask(found))
    if not names:
        raise DataError("validation images: expected at least one to predict on, got none; give some")
    return _boxes(names, boxes) if boxes else MaskPredictions(tuple(names), tuple(masks))


def _require_classes(found: Detections, classes: Sequence[str], where: str) -> None:
    beyond = found.labels[(found.labels < 0) | (found.labels >= len(classes))]
    if beyond.size:
        raise EngineError(
            f"{where}: expected classes 0..{len(classes) - 1}, got {beyond[0]}; "
            "list the network's classes, in its order, as `classes`"
        )


def _boxes(names: Sequence[str], found: Sequence[Detections]) -> BoxPredictions:
    return BoxPredictions(
        names=tuple(names),
        image=np.repeat(np.arange(len(found)), [len(one.labels) for one in found]),
        xyxy=np.concatenate([one.xyxy.reshape(-1, 4) for one in found]).astype(np.float32, copy=False),
        scores=np.concatenate([one.scores for one in found]).astype(np.float32, copy=False),
        labels=np.concatenate([one.labels for one in found]).astype(np.int64, copy=False),
    )
