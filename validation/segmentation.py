"""Mean intersection over union of masks, pooled over the whole data set.

Source: the Cityscapes and CamVid benchmarks; intersections and unions are summed over the set, then divided, which is
not the mean of the images' own IoU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avcompress.spec import DataError, EngineError
from calibration.sample import VOID, Sample


@dataclass(frozen=True)
class SegmentationMetrics:
    """IoU figures by name, 0-1, and what they rest on.

    Attributes:
        metrics: mIoU, pixel_accuracy, then IoU/<class>. NaN for a class that neither the labels nor the predictions
            (on labelled pixels) ever hold; such a class is left out of mIoU. A class that only the predictions hold
            has IoU 0, and counts.
        images: the number of images.
        confusion: (classes, classes + 1) pixels, label by prediction; the last column holds the predictions of an
            index outside the class table, which are misses.
    """

    metrics: Mapping[str, float]
    images: int
    confusion: tuple[tuple[int, ...], ...]


def segmentation_metric_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names that evaluate_segmentation gives its figures."""
    return ("mIoU", "pixel_accuracy", *(f"IoU/{name}" for name in classes))


def evaluate_segmentation(
    pairs: Iterable[tuple[Sample, NDArray[np.uint8]]], classes: Sequence[str]
) -> SegmentationMetrics:
    """The mIoU over all the pairs of a labelled sample and a predicted mask (H, W) of its size; label 255 is ignored.

    Raises:
        DataError: a sample has no mask, a label is outside the class table, or no pixel is labelled.
        EngineError: a predicted mask has another size than its label.
    """
    total = np.zeros((len(classes), len(classes) + 1), np.int64)
    images = 0
    for sample, predicted in pairs:
        if sample.mask is None:
            raise DataError(f"{sample.name}: expected a labelled mask, got none; give a labelled validation source")
        total += confusion(sample.mask, predicted, len(classes), sample.name)
        images += 1
    if not total.any():
        raise DataError(
            f"validation labels: expected a labelled pixel in {images} masks, got none; "
            "check `void` and the class names"
        )
    rows = tuple(tuple(row) for row in total.tolist())
    return SegmentationMetrics(_figures(total, classes), images, rows)


def confusion(
    label: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int, where: str = "mask"
) -> NDArray[np.int64]:
    """Count the labelled pixels by (label, prediction): (classes, classes + 1), the last column for other indices.

    Raises EngineError when the masks differ in size, DataError when a label is neither 255 nor below `classes`.
    """
    if predicted.shape != label.shape:
        raise EngineError(
            f"{where}: expected a mask of {label.shape}, got {predicted.shape}; "
            "predictions are judged at the label's size"
        )
    judged = label != VOID
    rows = label[judged].astype(np.int64)
    columns = np.minimum(predicted[judged].astype(np.int64), classes)
    if rows.size and rows.max() >= classes:
        raise DataError(
            f"{where}: expected class indices below {classes} or {VOID}, got {rows.max()}; "
            "list it in `void` or give its class a name"
        )
    counts = np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)


def _figures(total: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    hits = np.diagonal(total).astype(np.float64)
    union = total.sum(axis=1) + total[:, :-1].sum(axis=0) - hits
    seen = union > 0
    iou = np.full(len(classes), np.nan)
    iou[seen] = hits[seen] / union[seen]
    return {
        "mIoU": float(iou[seen].mean()),
        "pixel_accuracy": float(hits.sum() / total.sum()),
        **{f"IoU/{name}": float(value) for name, value in zip(classes, iou, strict=True)},
    }
