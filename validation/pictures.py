"""Predictions of the float and of the compressed network side by side, with what changed marked.

Photos are JPEG and masks PNG; boxes stay vectors, which the page draws sharp at any size.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avcompress.spec import Array
from calibration.sample import VOID, Sample
from validation.changes import FalseAlarm, ObjectChange

if TYPE_CHECKING:
    from engines.postprocess import Detections

LONG_SIDE = 640
LOST, GAINED, NEW = "#ff3b30", "#34d27b", "#ffb000"
"""What got worse, what got better, and false alarms that are new: on every picture, whatever the class."""

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

Kind = Literal["same", "lost", "gained", "new"]
_COLOURS: dict[Kind, str] = {"same": "#d9dce1", "lost": LOST, "gained": GAINED, "new": NEW}
BOX_LEGEND = (
    ("lost", LOST),
    ("gained", GAINED),
    ("new false alarm", NEW),
    ("any other detection", _COLOURS["same"]),
)


@dataclass(frozen=True)
class Mark:
    """A box to draw, in pixels of the picture.

    What is the same in both networks is drawn thin and has no text; `missing` is what this network does not find.
    """

    xyxy: tuple[float, float, float, float]
    text: str
    colour: str
    kind: Kind
    missing: bool = False


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


@dataclass(frozen=True)
class Story:
    """What changed in one image.

    Attributes:
        lost: objects that only the float network finds.
        gained: objects that only the compressed one finds.
        new: false alarms of the compressed network alone.
    """

    lost: tuple[ObjectChange, ...] = ()
    gained: tuple[ObjectChange, ...] = ()
    new: tuple[FalseAlarm, ...] = ()


@dataclass(frozen=True)
class Seen:
    """One network's detections at the deployed threshold; boxes are in pixels of the image."""

    title: str
    found: Detections = field(repr=False)


def picture_boxes(sample: Sample, before: Seen, after: Seen, story: Story, classes: Sequence[str]) -> Picture:
    """What both networks find, a panel each; objects lost and gained are marked in both, by their labels' boxes."""
    jpeg, (width, height), factor = _photo(sample.image)
    left = [_mark(found, found.reference_score, "lost", classes) for found in story.lost]
    left += [_missing(_mark(found, found.reference_score, "gained", classes)) for found in story.gained]
    right = [_missing(_mark(found, found.network_score, "lost", classes)) for found in story.lost]
    right += [_mark(found, found.network_score, "gained", classes) for found in story.gained]
    right += [_mark(found, found.score, "new", classes) for found in story.new]
    return Picture(
        name=sample.name,
        width=width,
        height=height,
        jpeg=jpeg,
        panels=(
            Panel(before.title, tuple(_scaled(mark, factor) for mark in (*_quiet(before, story), *left))),
            Panel(after.title, tuple(_scaled(mark, factor) for mark in (*_quiet(after, story), *right))),
        ),
        caption=_told(story, classes),
    )


def picture_masks(sample: Sample, before: NDArray[np.uint8], after: NDArray[np.uint8], names: Names) -> Picture:
    """The masks of both networks, (H, W) of the image's size, and the pixels that got worse or better.

    Without a label in the sample, the pixels that changed take the place of those that got worse.
    """
    jpeg, size, _ = _photo(sample.image)
    label = sample.mask
    judged = np.full(before.shape, True) if label is None else label != VOID
    worse = (before != after) & judged if label is None else (before == label) & (after != label) & judged
    better = np.full(before.shape, False) if label is None else (before != label) & (after == label) & judged
    total = max(1, int(judged.sum()))
    present = np.union1d(before, after)
    words = f"{worse.sum() / total:.2%} of the labelled pixels got worse, {better.sum() / total:.2%} better"
    return Picture(
        name=sample.name,
        width=size[0],
        height=size[1],
        jpeg=jpeg,
        panels=(
            Panel(names.before, overlay_png=_overlay(before, size)),
            Panel(names.after, overlay_png=_overlay(after, size)),
            Panel("what changed", overlay_png=_highlight(worse, better, size)),
        ),
        caption=f"{worse.sum() / total:.2%} of the pixels changed class" if label is None else words,
        legend=(
            *((name, _colour(index)) for index, name in enumerate(names.classes) if index in present),
            *((("got worse", LOST), ("got better", GAINED)) if label is not None else (("changed", LOST),)),
        ),
    )


@dataclass(frozen=True)
class Names:
    """How both networks and the classes are called."""

    before: str
    after: str
    classes: tuple[str, ...]


def _quiet(seen: Seen, story: Story) -> Iterable[Mark]:
    """The detections that are no part of what changed."""
    told = [found.xyxy for found in story.new]
    for box in np.asarray(seen.found.xyxy, np.float64):
        if not any(np.allclose(box, other, atol=1e-3) for other in told):
            yield Mark(_corners(box), "", _COLOURS["same"], "same")


def _mark(found: ObjectChange | FalseAlarm, score: float, kind: Kind, classes: Sequence[str]) -> Mark:
    text = f"{classes[found.label]} {'unseen' if np.isnan(score) else f'{score:.2f}'}"
    return Mark(found.xyxy, text, _COLOURS[kind], kind)


def _missing(mark: Mark) -> Mark:
    return replace(mark, missing=True)


def _scaled(mark: Mark, factor: float) -> Mark:
    return replace(mark, xyxy=_corners((np.asarray(mark.xyxy) * factor).round(1)))


def _corners(box: Array) -> tuple[float, float, float, float]:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom


def _told(story: Story, classes: Sequence[str]) -> str:
    parts = [
        f"{len(found)} {what} ({', '.join(_counted(classes[each.label] for each in found))})"
        for what, found in (("lost", story.lost), ("gained", story.gained), ("new false alarms", story.new))
        if found
    ]
    return "; ".join(parts) or "nothing lost or gained"


def _counted(names: Iterable[str]) -> list[str]:
    found = Counter(names).most_common()
    return [name if number == 1 or len(found) == 1 else f"{number} {name}" for name, number in found]


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


def _highlight(worse: NDArray[np.bool_], better: NDArray[np.bool_], size: tuple[int, int]) -> bytes:
    image = Image.fromarray((worse + 2 * better).astype(np.uint8))
    image.putpalette([0, 0, 0, *_rgb(LOST), *_rgb(GAINED)])
    return _png(image, size, transparency=0)


def _png(image: Image.Image, size: tuple[int, int], **options: int) -> bytes:
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST).save(buffer, "PNG", optimize=True, **options)
    return buffer.getvalue()


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
