"""What a labelled image is here, and what everything that reads labelled images offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from avcompress.spec import Array

VOID = 255
"""The mask value of a pixel that has no label."""

ALIASED_AWAY = -1
"""The label of an object that a null alias ignores, for every class."""

LARGEST = 1e6
"""The longest side, in pixels, that a label can speak of: float32 still holds it to a sixteenth of a pixel."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """The labelled objects of one image.

    Attributes:
        xyxy: (N, 4) float32, pixels of the image: left, top, right, bottom edges.
        labels: (N,) int64, index into the class table; ALIASED_AWAY where a null alias ignores the object.
        ignore: (N,) bool, a detection there counts neither for nor against: COCO iscrowd, KITTI DontCare, a null alias.
        area: (N,) float64, square pixels; COCO's own `area` (of the polygon), which sorts objects into small to large.
        attributes: what else is known of the objects, by name: (N,) float64, NaN where unknown (distance_m), or (N,)
            str, empty where unknown (occlusion: none, partly, largely; truncation: none, partly, largely; any tag).

    Raises ValueError when they disagree about N.
    """

    xyxy: Array
    labels: Array
    ignore: Array
    area: Array
    attributes: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.labels)
        columns = (self.ignore, self.area, *self.attributes.values())
        if self.xyxy.shape != (count, 4) or any(len(column) != count for column in columns):
            raise ValueError(f"boxes: expected {count} of each, got {len(self.xyxy)} boxes of shape {self.xyxy.shape}")

    # No __len__: an image without objects would be as false as no boxes at all.

    def keep(self, wanted: Array) -> Boxes:
        """Those where `wanted`, (N,) bool, holds."""
        attributes = {name: values[wanted] for name, values in self.attributes.items()}
        return Boxes(self.xyxy[wanted], self.labels[wanted], self.ignore[wanted], self.area[wanted], attributes)


@dataclass(frozen=True)
class LabelledBox:
    """One object while a label file is read; `index` is None where a null alias ignores it."""

    xyxy: tuple[float, float, float, float]
    index: int | None
    area: float
    crowd: bool = False
    attributes: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def plausible(self) -> bool:
        """Whether the edges are ordered and, like the area, finite and of a size that an image can have."""
        left, top, right, bottom = self.xyxy
        # Each comparison is False for NaN.
        sized = all(abs(edge) <= LARGEST for edge in self.xyxy) and 0 <= self.area <= LARGEST**2
        return sized and left <= right and top <= bottom


Kind = type[float] | type[str]
"""What a column of attributes holds: numbers, NaN where unknown, or text, empty where unknown."""


def unknown(kind: Kind, count: int) -> Array:
    """The column of an attribute that nothing is known of."""
    return np.full(count, np.nan) if kind is float else np.full(count, "")


def stack(boxes: list[LabelledBox], kinds: Mapping[str, Kind] | None = None) -> Boxes:
    """Gather the objects of one image into arrays, in their order.

    `kinds`: the attributes to gather, the same for all images of a source; what a box lacks is unknown.
    """
    attributes = {
        name: _column([box.attributes.get(name) for box in boxes], kind) for name, kind in (kinds or {}).items()
    }
    return Boxes(
        xyxy=np.array([box.xyxy for box in boxes], np.float32).reshape(-1, 4),
        labels=np.array([ALIASED_AWAY if box.index is None else box.index for box in boxes], np.int64),
        ignore=np.array([box.crowd or box.index is None for box in boxes], np.bool_),
        area=np.array([box.area for box in boxes], np.float64),
        attributes=attributes,
    )


def _column(values: list[float | str | None], kind: Kind) -> Array:
    if kind is float:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array(["" if value is None else value for value in values], np.str_)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with what is known about it.

    Attributes:
        name: what people see, such as the file name.
        image: (H, W, 3) uint8, RGB.
        boxes: the objects; None where the source has no boxes, empty where the image has none.
        mask: (H, W) uint8, index into the class table, VOID where unlabelled; None where the source has no masks.
        tags: what is known of the image as a whole: weather -> rain.
    """

    name: str
    image: Array
    boxes: Boxes | None = None
    mask: Array | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """An ordered set of samples; each one is decoded when it is asked for and never held."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class table that labels and masks index."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The samples' names in order, without decoding anything."""
        ...

    @property
    def fingerprint(self) -> str:
        """The sha256, in hex, of what identifies images and labels, without decoding anything."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names left out, so far, because their images cannot be read."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...

    def __getitem__(self, index: int, /) -> Sample: ...
