"""Mean intersection over union of masks, pooled over the whole data set.

Source: the Cityscapes and CamVid benchmarks; intersections and unions are summed over the set, then divided, which is
not the mean of the images' own IoU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avcompress.spec import DataError
from calibration.sample import Sample
from validation.segmentation.confusion import confusion
from validation.segmentation.figures import intersection_over_union, mean_of_classes


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


def _figures(total: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    counts = total.astype(np.float64)[..., None]
    hits, labelled = np.diagonal(counts).T, counts.sum(axis=1)
    iou = intersection_over_union(hits, labelled, counts[:, :-1].sum(axis=0))
    return {
        "mIoU": float(mean_of_classes(iou)[0]),
        "pixel_accuracy": float(hits.sum() / labelled.sum()),
        **{f"IoU/{name}": float(value) for name, value in zip(classes, iou[:, 0], strict=True)},
    }
