"""Predictions of the float and of the compressed network side by side, with what changed marked.

Photos are JPEG and masks PNG; boxes stay vectors, which the page draws sharp at any size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avcompress.spec import Array
from calibration.sample import VOID, Sample

if TYPE_CHECKING:
    from engines.postprocess import Detections

LONG_SIDE = 640
SHOWN_SCORE = 0.3
SAME_IOU = 0.5
CHANGED = "#ff2d20"

# Twelve hues that stay apart on photographs, also for the colour-blind as far as twelve can.
PALETTE = (
    "#4cc2ff",
    "#ffb000",
    "#b07cff",
    "#3ddc84",
    "#ff6f61",
    "#f7e967",
    "#ff7ac6",
    "#00c2b2",
    "#c98d4f",
    "#8ea8ff",
    "#a8d94a",
    "#d3d7de",
)


@dataclass(frozen=True)
class Mark:
    """A box to draw, in pixels of the picture; `changed` when the other network has no such box."""

    xyxy: tuple[float, float, float, float]
    label: str
    score: float
    colour: str
    changed: bool


@dataclass(frozen=True)
class Panel:
    """One view of the photo: boxes on it, or a PNG of the same shape laid over it."""

    title: str
    marks: tuple[Mark, ...] = ()
    overlay_png: bytes | None = None


@dataclass(frozen=True)
class Picture:
    """One photo, its panels, and what changed in words; `legend` is (class, colour) for overlays."""

    name: str
    width: int
    height: int
    jpeg: bytes
    panels: tuple[Panel, ...]
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


def picture_boxes(
    sample: Sample, reference: Detections, compressed: Detections, classes: Sequence[str], engine: str
) -> Picture:
    """The boxes of both networks with a score of SHOWN_SCORE or more, as two panels.

    A box is unchanged when the other network shows one of the same class that overlaps it by SAME_IOU or more, each
    box serving once. Boxes are in pixels of the sample's image.
    """
    jpeg, (width, height), factor = _photo(sample.image)
    left, right = _shown(reference), _shown(compressed)
    pairs = matched(left, right)
    lost = [index for index in range(len(left.labels)) if index not in pairs]
    new = [index for index in range(len(right.labels)) if index not in pairs.values()]
    return Picture(
        name=sample.name,
        width=width,
        height=height,
        jpeg=jpeg,
        panels=(
            Panel("float", _marks(left, classes, factor, lost)),
            Panel(engine, _marks(right, classes, factor, new)),
        ),
        caption=f"{len(pairs)} kept, {len(lost)} lost, {len(new)} new",
    )


def picture_masks(
    sample: Sample,
    reference: NDArray[np.uint8],
    compressed: NDArray[np.uint8],
    classes: Sequence[str],
    engine: str,
) -> Picture:
    """The masks of both networks, (H, W) of the image's size, and the pixels that changed where a label judges them."""
    jpeg, size, _ = _photo(sample.image)
    judged = np.full(reference.shape, True) if sample.mask is None else sample.mask != VOID
    changed = (reference != compressed) & judged
    share = changed.sum() / max(1, judged.sum())
    present = np.union1d(reference, compressed)
    return Picture(
        name=sample.name,
        width=size[0],
        height=size[1],
        jpeg=jpeg,
        panels=(
            Panel("float", overlay_png=_overlay(reference, size)),
            Panel(engine, overlay_png=_overlay(compressed, size)),
            Panel("changed", overlay_png=_highlight(changed, size)),
        ),
        caption=f"{share:.2%} of the {'' if sample.mask is None else 'labelled '}pixels changed class",
        legend=tuple((name, _colour(index)) for index, name in enumerate(classes) if index in present),
    )


def matched(left: Detections, right: Detections) -> dict[int, int]:
    """Pair boxes of the same class that overlap by SAME_IOU or more, best overlap first: index left -> index right."""
    overlap = box_iou(left.xyxy, right.xyxy) * (left.labels[:, None] == right.labels[None, :])
    pairs: dict[int, int] = {}
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        row, column = divmod(int(flat), overlap.shape[1])
        if overlap[row, column] < SAME_IOU:
            break
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    return pairs


def box_iou(left: Array, right: Array) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes: (N, 4) and (M, 4) xyxy -> (N, M); 0 for empty boxes."""
    a, b = np.asarray(left, np.float64)[:, None], np.asarray(right, np.float64)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    inside = sides.prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - inside
    iou: NDArray[np.float64] = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return iou


def _shown(detections: Detections) -> Detections:
    keep = detections.scores >= SHOWN_SCORE
    return type(detections)(detections.xyxy[keep], detections.scores[keep], detections.labels[keep])


def _marks(detections: Detections, classes: Sequence[str], factor: float, changed: list[int]) -> tuple[Mark, ...]:
    boxes = (np.asarray(detections.xyxy, np.float64) * factor).round(1).tolist()
    rows = zip(boxes, detections.labels.tolist(), detections.scores.tolist(), strict=True)
    return tuple(
        Mark((box[0], box[1], box[2], box[3]), classes[label], score, _colour(label), index in changed)
        for index, (box, label, score) in enumerate(rows)
    )


def _photo(image: Array) -> tuple[bytes, tuple[int, int], float]:
    """The image as JPEG of LONG_SIDE pixels, its (width, height), and the factor from image to picture."""
    photo = Image.fromarray(image)
    factor = LONG_SIDE / max(photo.size)  # small images are enlarged: labels are written in pixels of the picture
    width, height = (max(1, round(side * factor)) for side in photo.size)
    buffer = io.BytesIO()
    photo.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue(), (width, height), factor


def _overlay(mask: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette([part for index in range(256) for part in _rgb(_colour(index))])
    return _png(image, size)


def _highlight(changed: NDArray[np.bool_], size: tuple[int, int]) -> bytes:
    image = Image.fromarray(changed.astype(np.uint8))
    image.putpalette([0, 0, 0, *_rgb(CHANGED)])
    return _png(image, size, transparency=0)


def _png(image: Image.Image, size: tuple[int, int], **options: int) -> bytes:
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST).save(buffer, "PNG", optimize=True, **options)
    return buffer.getvalue()


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
