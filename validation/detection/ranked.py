"""Detections in the order that they are judged in, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avcompress.spec import EngineError
from validation.predictions import BoxPredictions

MAX_DETECTIONS = 100
"""Of one class in one image: worse ones are not looked at, as by pycocotools."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ranked:
    """The detections of all images, best score first; ties in the images' order, then in the given one.

    Attributes:
        rows: (M,) which of the given detections each one is.
        image: (M,).
        xyxy: (M, 4) float64.
        scores: (M,) float32.
        labels: (M,).
    """

    rows: Ints
    image: Ints
    xyxy: Floats
    scores: NDArray[np.float32]
    labels: Ints


def rank(found: BoxPredictions) -> Ranked:
    """Sort, and leave out what is beyond the first MAX_DETECTIONS of a class in an image."""
    rows = np.lexsort((found.image, -found.scores))
    rows = rows[_among_the_best(found.image[rows], found.labels[rows])]
    return Ranked(rows, found.image[rows], found.xyxy[rows].astype(np.float64), found.scores[rows], found.labels[rows])


def place_in_group(groups: Ints) -> Ints:
    """How many earlier ones each row has in its own group: (M,)."""
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    place = np.empty(len(groups), np.int64)
    place[order] = np.arange(len(groups)) - np.searchsorted(sorted_groups, sorted_groups)
    return place


def check_detections(found: BoxPredictions, names: Sequence[str], classes: int) -> None:
    """Raise EngineError, naming the image, when a box or score is not finite or a class is outside the table."""
    wrong = ~(np.isfinite(found.xyxy).all(axis=1) & np.isfinite(found.scores))
    if wrong.any():
        raise EngineError(
            f"{names[found.image[wrong.argmax()]]}: expected finite boxes and scores, got NaN or infinity; "
            "see whether the float network does too"
        )
    unknown = (found.labels < 0) | (found.labels >= classes)
    if unknown.any():
        first = unknown.argmax()
        raise EngineError(
            f"{names[found.image[first]]}: expected class indices below {classes}, got {int(found.labels[first])}; "
            "give the network's own class table as `classes`"
        )


def _among_the_best(image: Ints, labels: Ints) -> Bools:
    if not len(image) or np.bincount(image).max() <= MAX_DETECTIONS:
        return np.ones(len(image), np.bool_)
    kept: Bools = place_in_group(image * (labels.max() + 1) + labels) < MAX_DETECTIONS
    return kept
