"""What one network said of every image of a validation set."""

from __future__ import annotations

from dataclasses import dataclass

from avcompress.spec import Array


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
