"""One quick pass over a camera's frames of a drive: which differ from each other, and what each looks like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from avcompress.recipe_drive import RosbagSource
from avcompress.spec import Array, DataError
from calibration.bag.reading import Recorded
from calibration.frame import to_thumbnail

SIDE = 32
"""Of the images that are compared, in pixels."""
_DESCRIPTOR_SIDE = 8


class Distinct(NamedTuple):
    """A frame that differs from the one before it.

    Attributes:
        recorded_ns: what it is found again by.
        stamp_ns: by the camera's clock.
        brightness: mean luma, 0-255.
        descriptor: (192,) uint8: the image on 8x8 pixels, RGB.
    """

    recorded_ns: int
    stamp_ns: int
    brightness: float
    descriptor: Array


@dataclass(eq=False)
class Scan:
    """What a pass has found.

    Attributes:
        read: frames in the range of time.
        looked_at: those left at the rate.
        unreadable: recorded times of those that cannot be decoded.
        duplicates: those that hardly differ from the one taken before them.
        size: height, width.
    """

    read: int = 0
    looked_at: int = 0
    unreadable: list[int] = field(default_factory=list)
    duplicates: int = 0
    size: tuple[int, int] | None = None
    distinct: list[Distinct] = field(default_factory=list)


def scan(frames: Iterable[Recorded], settings: RosbagSource, where: str) -> Scan:
    """Go through frames once, holding no more than a few hundred bytes of each.

    `where`: names the drive in errors. Raises DataError for a frame that cannot be decoded, unless the settings skip
    those, and where the frames change their size.
    """
    found, pace, last = Scan(), _Pace(settings.rate_hz), None
    for recorded in frames:
        found.read += 1
        if not pace.is_due(recorded.recorded_ns):
            continue
        found.looked_at += 1
        pixels = _thumbnail(recorded, found, settings, where)
        if pixels is None:
            continue
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        if last is not None and difference(grey, last) < settings.distinct:
            found.duplicates += 1
            continue
        last = grey
        found.distinct.append(_describe(recorded, pixels, grey))
    return found


class _Pace:
    """Lets the first frame of every period through, counted from the first frame on: late ones shift nothing."""

    def __init__(self, rate_hz: float | None) -> None:
        self._period_ns = 0.0 if rate_hz is None else 1e9 / rate_hz
        self._first_ns = self._last_ns = -1
        self._period = -1

    def is_due(self, at_ns: int) -> bool:
        if self._first_ns < 0:
            self._first_ns = at_ns
        # A frame is found again by its time, so of two of one time the second is none.
        period = int((at_ns - self._first_ns) / self._period_ns) if self._period_ns else self._period + 1
        if at_ns == self._last_ns or period <= self._period:
            return False
        self._last_ns, self._period = at_ns, period
        return True


def _thumbnail(recorded: Recorded, found: Scan, settings: RosbagSource, where: str) -> Array | None:
    try:
        pixels, size = to_thumbnail(recorded.frame, SIDE)
    except DataError as error:
        if settings.on_bad_image == "skip":
            found.unreadable.append(recorded.recorded_ns)
            return None
        raise DataError(f"{where}, frame at {recorded.recorded_ns} ns: {error}, or set on_bad_image: skip") from error
    if found.size not in (None, size):
        raise DataError(
            f"{where}, frame at {recorded.recorded_ns} ns: expected {_by(found.size)} pixels, as the frames before, "
            f"got {_by(size)}; take one part of the drive by start_s and end_s"
        )
    found.size = size
    return pixels


def _by(size: tuple[int, int] | None) -> str:
    return "none" if size is None else f"{size[1]}x{size[0]}"


def difference(one: Array, other: Array) -> float:
    """How many grey levels two images, uint8 of one shape, differ by on average."""
    return float(cv2.absdiff(one, other).mean())


def _describe(recorded: Recorded, pixels: Array, grey: Array) -> Distinct:
    small = cv2.resize(pixels, (_DESCRIPTOR_SIDE, _DESCRIPTOR_SIDE), interpolation=cv2.INTER_AREA)
    return Distinct(
        recorded.recorded_ns, recorded.frame.header.stamp_ns, float(grey.mean()), np.asarray(small).reshape(-1)
    )
