"""Pixels of every image counted once, so that figures of any weighting of the images are a product of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avcompress.spec import Array
from calibration.sample import VOID
from validation.mask_png import decode_mask
from validation.predictions import MaskPredictions
from validation.segmentation.bands import Band
from validation.segmentation.boundary import boundary_map, near, tolerance_px
from validation.segmentation.confusion import count_codes, pair_codes
from validation.segmentation.figures import (
    Floats,
    boundary_f_score,
    intersection_over_union,
    mean_of_classes,
    pixel_f_score,
)
from validation.truth import Truth


@dataclass(frozen=True, eq=False)
class MaskTally:
    """What one network's masks are worth, image by image.

    Attributes:
        classes: the class table, C names.
        pixels: (I, 3, C) int32, labelled pixels: those hit, all of that label, all predicted so. No whole confusion
            matrix: of 10,000 images, 66 classes and seven bands it would take 1 GB.
        boundary: (I, 4, C) int32: predicted boundary pixels near a labelled one, predicted ones, labelled ones near a
            predicted one, labelled ones.
    """

    classes: tuple[str, ...]
    pixels: Array
    boundary: Array

    @property
    def labelled(self) -> Array:
        """Labelled pixels by image and class, (I, C)."""
        return self.pixels[:, 1]

    @property
    def objects(self) -> int:
        """Labelled pixels."""
        return int(self.labelled.sum(dtype=np.int64))

    def figures(self, weights: Array) -> dict[str, NDArray[np.float64]]:
        """The figures, (R,) each, named by mask_metric_names, of R weightings of the images.

        Args:
            weights: (I, R), not negative: how often each image counts. Whole numbers give exact counts.

        A class that neither the labels nor the predictions on labelled pixels hold is NaN, and left out of means.
        """
        weights = np.asarray(weights, np.float64)
        hits, labelled, predicted = (_pool(self.pixels[:, kind], weights) for kind in range(3))
        iou = intersection_over_union(hits, labelled, predicted)
        f_score = pixel_f_score(hits, labelled, predicted)
        boundary = boundary_f_score(*(_pool(self.boundary[:, kind], weights) for kind in range(4)))
        overall = {
            "mIoU": mean_of_classes(iou),
            "pixel_accuracy": _share(hits, labelled),
            "F1": mean_of_classes(f_score),
            "boundary_f": mean_of_classes(boundary),
        }
        by_class = {
            f"{metric}/{name}": values[index]
            for metric, values in (("IoU", iou), ("F1", f_score), ("boundary_f", boundary))
            for index, name in enumerate(self.classes)
        }
        return overall | by_class


def tally_masks(truth: Truth, found: MaskPredictions) -> MaskTally:
    """Count the pixels of every image; raises as tally_bands does."""
    return tally_bands(truth, found, (None,))[0]


def tally_bands(truth: Truth, found: MaskPredictions, bands: Sequence[Band | None]) -> tuple[MaskTally, ...]:
    """Count the pixels inside each band (None: the whole image), decoding every mask once.

    A boundary pixel belongs to the band it lies in; what it is near may lie outside.

    Raises:
        DataError: a label is outside the class table, or a mask is no PNG.
        EngineError: a predicted mask has another size than its label.
        ValueError: the labels are no masks, or not of the same images.
    """
    if truth.masks is None or len(truth.masks) != len(found.masks):
        raise ValueError(f"masks: expected labels of {len(found.masks)} images, got {len(truth.masks or ())}")
    classes, images = len(truth.classes), len(truth.masks)
    counts = [np.zeros((images, 3, classes), np.int32) for _ in bands]
    edges = [np.zeros((images, 4, classes), np.int32) for _ in bands]
    for index, (name, label_png, found_png) in enumerate(zip(truth.names, truth.masks, found.masks, strict=True)):
        label, predicted = decode_mask(label_png, name), decode_mask(found_png, name)
        codes = pair_codes(label, predicted, classes, name)
        boundaries = _Boundaries.of(label, predicted, classes)
        for band, count, edge in zip(bands, counts, edges, strict=True):
            window = band.window(label.shape) if band else (slice(None), slice(None))
            matrix = count_codes(codes[window], classes)
            count[index] = np.diagonal(matrix), matrix.sum(axis=1), matrix[:, :-1].sum(axis=0)
            edge[index] = boundaries.count(window, classes)
    return tuple(MaskTally(truth.classes, count, edge) for count, edge in zip(counts, edges, strict=True))


@dataclass(frozen=True, eq=False)
class _Boundaries:
    """Of one image: boundary maps as boundary_map gives them, (H, W), and those of their pixels that are matched."""

    matched: Array
    predicted: Array
    recalled: Array
    labelled: Array

    @staticmethod
    def of(label: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> _Boundaries:
        # What is predicted on unlabelled pixels is not judged, so it makes no boundary either.
        judged = np.where(label == VOID, np.uint8(VOID), np.minimum(predicted, classes).astype(np.uint8))
        truth, found = boundary_map(label), boundary_map(judged)
        tolerance = tolerance_px((label.shape[0], label.shape[1]))
        void = np.uint8(VOID)
        return _Boundaries(
            np.where(near(found, truth, tolerance), found, void),
            found,
            np.where(near(truth, found, tolerance), truth, void),
            truth,
        )

    def count(self, window: tuple[slice, slice], classes: int) -> Array:
        """The pixels inside the window by kind and class, (4, classes)."""
        maps = (self.matched, self.predicted, self.recalled, self.labelled)
        return np.stack([np.bincount(of[window].ravel(), minlength=classes)[:classes] for of in maps])


def _pool(counts: Array, weights: Array) -> Floats:
    """(I, C) counts by image and (I, R) weights -> (C, R)."""
    pooled: Floats = counts.T.astype(np.float64) @ weights
    return pooled


def _share(hits: Floats, labelled: Floats) -> Floats:
    total = labelled.sum(axis=0)
    share: Floats = np.divide(hits.sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0)
    return share
