"""The labels of a validation set without its pixels: what predictions are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from avcompress.spec import Array


@dataclass(frozen=True, eq=False)
class Objects:
    """The labelled objects of all images, image after image.

    Attributes:
        image: (N,) int64, index of the object's image.
        xyxy: (N, 4) float32, pixels of the image.
        labels: (N,) int64, index into the class table; ALIASED_AWAY: ignored for every class.
        ignore: (N,) bool, a detection there counts neither for nor against.
        area: (N,) float64, square pixels.
        attributes: by name, (N,) float64 with NaN, or (N,) str with "", where unknown.
    """

    image: Array
    xyxy: Array
    labels: Array
    ignore: Array
    area: Array
    attributes: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Truth:
    """The labels of a set of images, and what slices need to know of them.

    Attributes:
        names: of the images, in order; unreadable ones are left out.
        classes: the class table.
        fingerprint: the source's, sha256 in hex: which images, which labels.
        sizes: (I, 2) int32, height and width.
        brightness: (I,) float32, mean luma of the image, 0-255.
        tags: by name, (I,) str, empty where an image has no such tag.
        objects: of detection; None where the labels are masks.
        masks: of segmentation, a PNG of (H, W) uint8 for each image; None where the labels are boxes.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    fingerprint: str
    sizes: Array
    brightness: Array
    tags: Mapping[str, Array]
    objects: Objects | None = None
    masks: tuple[bytes, ...] | None = None
