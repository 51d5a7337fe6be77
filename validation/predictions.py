"""What one network said of every image of a validation set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from avcompress.spec import Array, DataError, EngineError
from calibration.sample import Sample
from engines.postprocess import Detections
from validation.mask_png import encode_mask, mask_size
from validation.predict import Prediction
from validation.truth import Truth

PIXEL = 1.0
"""How far beyond the image a box may reach: what rounding does."""

SCORE_SLACK = 1 / 256
"""How far outside 0-1 a score may lie: half a step of an output in 8 bit."""


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

    def keep(self, wanted: Array) -> BoxPredictions:
        """Those where `wanted`, (M,) bool, holds, or those at its indices; they keep their images' indices."""
        columns = (self.image, self.xyxy, self.scores, self.labels)
        return BoxPredictions(self.names, *(column[wanted] for column in columns))


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


# --- checking


def check_predictions(found: Predictions, truth: Truth) -> None:
    """Raise DataError, in one line, where predictions cannot be those of the labels' images, or no network's at all.

    No detection is legal, in one image or in all; a box cut off at the border may come twice, as clipping makes equal
    what was not.
    """
    _check_names(found.names, truth.names)
    if isinstance(found, BoxPredictions):
        if truth.objects is None:
            raise DataError("predictions: expected masks, as the labels are, got boxes; give a segmenter's")
        _check_boxes(found, truth)
    else:
        if truth.masks is None:
            raise DataError("predictions: expected boxes, as the labels are, got masks; give a detector's")
        _check_masks(found, truth)


def _check_names(found: Sequence[str], labelled: Sequence[str]) -> None:
    if not labelled:
        raise DataError("validation labels: expected at least one image, got none; give some")
    without_labels = list(dict.fromkeys(found).keys() - dict.fromkeys(labelled))
    without_predictions = list(dict.fromkeys(labelled).keys() - dict.fromkeys(found))
    if without_labels:
        raise DataError(
            f"predictions of {min(without_labels)}: expected images that the labels hold, got {len(without_labels)} of "
            f"{len(found)} that they do not; label them, or predict on the labelled images"
        )
    if without_predictions:
        raise DataError(
            f"predictions: expected some for each of {len(labelled)} labelled images, got none for "
            f"{len(without_predictions)}, such as {min(without_predictions)}; predict on it, or remove its labels"
        )
    if tuple(found) != tuple(labelled):
        raise DataError("predictions: expected images in the labels' order, once each, got another; sort them")


def _check_boxes(found: BoxPredictions, truth: Truth) -> None:
    edges, scores, labels = found.xyxy, found.scores, found.labels
    height, width = truth.sizes[found.image].T
    finite = np.isfinite(edges).all(axis=1) & np.isfinite(scores)
    _refuse(found, ~finite, "finite boxes and scores", "the network or its engine is broken")
    unordered = np.any(edges[:, 2:] < edges[:, :2], axis=1)
    _refuse(found, unordered, "left <= right, top <= bottom", "give edges, not centre and size")
    # How far each box reaches beyond the image, in pixels: negative inside.
    reach = np.maximum(-edges[:, :2], edges[:, 2:] - np.stack((width, height), axis=1)).max(axis=1, initial=-np.inf)
    _refuse(
        found, reach > PIXEL, "boxes inside the image", "clip them, and give pixels of the image, not of the network"
    )
    beyond = (labels < 0) | (labels >= len(truth.classes))
    _refuse(found, beyond, f"classes 0..{len(truth.classes) - 1}", "list the network's classes, in its order")
    wild = (scores < -SCORE_SLACK) | (scores > 1 + SCORE_SLACK)
    _refuse(found, wild, "scores in 0-1", "give probabilities, not logits or percent")
    _refuse(
        found, _repeated(found) & (reach < 0), "each detection once", "suppress what overlaps, and give no file twice"
    )


def _refuse(found: BoxPredictions, bad: Array, wanted: str, advice: str) -> None:
    if not bad.any():
        return
    first = int(bad.argmax())
    box = ", ".join(f"{edge:g}" for edge in found.xyxy[first].tolist())
    more = f", and {np.count_nonzero(bad) - 1} more" if np.count_nonzero(bad) > 1 else ""
    raise DataError(
        f"predictions of {found.names[found.image[first]]}: expected {wanted}, got box ({box}), class "
        f"{found.labels[first]}, score {found.scores[first]:g}{more}; {advice}"
    )


def _repeated(found: BoxPredictions) -> Array:
    """Which detections equal an earlier one of their image in box, class and score: (M,) bool."""
    # Scores seldom meet: one key of image and score leaves few to compare in full.
    key = found.image << 32 | np.asarray(found.scores + 0.0, np.float32).view(np.uint32).astype(np.int64)
    order = np.argsort(key, kind="stable")
    tied = np.flatnonzero(key[order[1:]] == key[order[:-1]])
    some = np.unique(order[np.concatenate((tied, tied + 1))])
    rows = np.column_stack((found.labels[some], found.xyxy[some], found.scores[some], found.image[some]))
    inner = np.lexsort(rows.T)
    repeated = np.zeros(len(key), np.bool_)
    repeated[some[inner[1:]]] = (rows[inner[1:]] == rows[inner[:-1]]).all(axis=1)
    return repeated


def _check_masks(found: MaskPredictions, truth: Truth) -> None:
    for name, png, size in zip(found.names, found.masks, truth.sizes.tolist(), strict=True):
        got = mask_size(png, f"predictions of {name}")
        if list(got) != size:
            raise DataError(
                f"predictions of {name}: expected a mask of the image's size, {size[1]}x{size[0]}, got "
                f"{got[1]}x{got[0]}; predictions are judged at the label's size"
            )
