"""Figures from counts of pixels, all resamples at once.

Source: intersection over union as the Cityscapes and CamVid benchmarks define it; the pixel F-score is Dice's
coefficient; the boundary F-score after Csurka et al., BMVC 2013 (see boundary.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mask_metric_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names that MaskTally.figures gives its figures."""
    return (
        *("mIoU", "pixel_accuracy", "F1", "boundary_f"),
        *(f"{metric}/{name}" for metric in ("IoU", "F1", "boundary_f") for name in classes),
    )


def intersection_over_union(hits: Floats, labelled: Floats, predicted: Floats) -> Floats:
    """By class, (C, R): of pixels hit, of that label and predicted so; NaN where there are none."""
    return _ratio(hits, labelled + predicted - hits)


def pixel_f_score(hits: Floats, labelled: Floats, predicted: Floats) -> Floats:
    """Dice's coefficient by class, (C, R): the harmonic mean of the pixels' precision and recall."""
    return _ratio(2 * hits, labelled + predicted)


def boundary_f_score(matched: Floats, predicted: Floats, recalled: Floats, labelled: Floats) -> Floats:
    """The harmonic mean of the boundary pixels' precision and recall, (C, R).

    Args:
        matched: predicted boundary pixels near a labelled one.
        predicted: all predicted ones.
        recalled: labelled boundary pixels near a predicted one.
        labelled: all labelled ones.

    0 where only one side has a boundary, NaN where neither has.
    """
    precision, recall = _ratio(matched, predicted), _ratio(recalled, labelled)
    score = np.nan_to_num(_ratio(2 * precision * recall, precision + recall), nan=0.0)
    return np.where(predicted + labelled > 0, score, np.nan)


def mean_of_classes(values: Floats) -> Floats:
    """The mean over the classes that have a value, (C, R) -> (R,); as numpy.nanmean, to the last bit."""
    rows = np.ascontiguousarray(values.T)
    return _ratio(np.where(np.isnan(rows), 0.0, rows).sum(axis=1), (~np.isnan(rows)).sum(axis=1))


def _ratio(part: Floats, whole: NDArray[np.float64] | NDArray[np.int64]) -> Floats:
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
