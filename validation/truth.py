"""The labels of a validation set without its pixels: what predictions are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from avcompress.spec import Array, DataError, Track, untracked
from calibration.sample import Boxes, Sample, Source, unknown
from validation.mask_png import encode_mask

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue. Source: ITU-R BT.601."""


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

    def keep(self, wanted: Array) -> Objects:
        """Those where `wanted`, (N,) bool, holds; they keep their images' indices."""
        attributes = {name: values[wanted] for name, values in self.attributes.items()}
        image, xyxy, labels, ignore, area = (
            column[wanted] for column in (self.image, self.xyxy, self.labels, self.ignore, self.area)
        )
        return Objects(image, xyxy, labels, ignore, area, attributes)


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


def read_truth(source: Source, track: Track = untracked) -> Truth:
    """Read the labels of a source in one pass over its images; raises DataError where an image has no labels."""
    names, sizes, brightness, tags = [], [], [], []
    boxes: list[Boxes] = []
    masks: list[bytes] = []
    for sample in track(source, len(source)):
        names.append(sample.name)
        sizes.append(sample.image.shape[:2])
        brightness.append(mean_luma(sample.image))
        tags.append(sample.tags)
        _add_labels(sample, boxes, masks)
    if len(names) not in (len(boxes), len(masks)):
        raise DataError(f"validation labels: expected boxes or masks, got {len(boxes)} and {len(masks)}; give one kind")
    return Truth(
        names=tuple(names),
        classes=source.classes,
        fingerprint=source.fingerprint,
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        brightness=np.array(brightness, np.float32),
        tags=_tag_columns(tags),
        objects=_objects(boxes) if boxes else None,
        masks=tuple(masks) if masks else None,
    )


def mean_luma(image: Array) -> float:
    """The mean luma, 0-255, of an image (H, W, 3) uint8 RGB."""
    return sum(weight * mean for weight, mean in zip(LUMA, cv2.mean(image), strict=False))


def _add_labels(sample: Sample, boxes: list[Boxes], masks: list[bytes]) -> None:
    if sample.boxes is not None:
        boxes.append(sample.boxes)
    elif sample.mask is not None:
        masks.append(encode_mask(sample.mask))
    else:
        raise DataError(f"{sample.name}: expected boxes or a mask, got neither; give a labelled validation source")


def _tag_columns(tags: Sequence[Mapping[str, str]]) -> dict[str, Array]:
    names = sorted({name for one in tags for name in one})
    return {name: np.array([one.get(name, "") for one in tags], np.str_) for name in names}


def _objects(boxes: Sequence[Boxes]) -> Objects:
    counts = [len(one.labels) for one in boxes]
    return Objects(
        image=np.repeat(np.arange(len(boxes)), counts),
        xyxy=np.concatenate([one.xyxy for one in boxes]),
        labels=np.concatenate([one.labels for one in boxes]),
        ignore=np.concatenate([one.ignore for one in boxes]),
        area=np.concatenate([one.area for one in boxes]),
        attributes=_attributes(boxes),
    )


def _attributes(boxes: Sequence[Boxes]) -> dict[str, Array]:
    """The columns of all images end to end; an image without one adds unknown values."""
    kinds = {name: str if one.attributes[name].dtype.kind == "U" else float for one in boxes for name in one.attributes}
    return {
        name: np.concatenate([one.attributes.get(name, unknown(kind, len(one.labels))) for one in boxes])
        for name, kind in kinds.items()
    }
