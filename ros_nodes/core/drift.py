"""Whether a camera's images still look like those that the network was calibrated on; no clock and no lock.

The mean of every figure over the last images is held against the band that it was in on calibration images. One odd
image moves it little; a lens that is dirty, a camera that is overexposed or sends other channels moves it for good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from engines.manifest import Band, Familiar

WINDOW = 20
"""Watched images that a mean is of, about."""
_LEAST_SHARE = 0.1
"""Of the larger end: the width that a band has at least, or a figure that never changed would have none."""


class Excess(NamedTuple):
    """A figure that is outside its band, or near its edge; `by`: how far outside, in widths of the band."""

    figure: str
    value: float
    band: Band
    by: float


@dataclass
class CameraDrift:
    """What is known of one camera.

    Attributes:
        watched: images that were looked at.
        drifting: whether it is told that they are not what the network was calibrated on.
        worst: the figure that is farthest outside; None before an image was looked at.
    """

    watched: int = 0
    drifting: bool = False
    worst: Excess | None = None
    _means: dict[str, float] = field(default_factory=dict)
    _turning: int = 0

    def look(self, figures: Mapping[str, float], familiar: Familiar, tolerance: float, after: int) -> None:
        """Take one image's figures.

        `after` images in a row that are outside by more than the tolerance begin a drift; as many in a row that are
        within half of it end it.
        """
        self.watched += 1
        self._means = {
            name: _moved(self._means.get(name), figures[name], self.watched)
            for name in familiar.figures
            if name in figures
        }
        excesses = (_excess(name, mean, familiar.figures[name]) for name, mean in self._means.items())
        self.worst = max(excesses, key=lambda each: each.by, default=None)
        by = self.worst.by if self.worst else 0.0
        turns = by <= tolerance / 2 if self.drifting else by > tolerance
        self._turning = self._turning + 1 if turns else 0
        if self._turning >= after:
            self.drifting, self._turning = not self.drifting, 0


def _moved(mean: float | None, value: float, count: int) -> float:
    """A mean after one more value; what is not finite stays with the image that had it."""
    if mean is None or not math.isfinite(mean) or not math.isfinite(value):
        return value
    return mean + (value - mean) / min(count, WINDOW)


def _excess(name: str, mean: float, band: Band) -> Excess:
    width = max(band.high - band.low, _LEAST_SHARE * max(abs(band.low), abs(band.high)), 1e-6)
    by = max(band.low - mean, mean - band.high) / width
    return Excess(name, mean, band, by if math.isfinite(by) else math.inf)


@dataclass(frozen=True)
class DriftView:
    """What diagnostics say of drift.

    Attributes:
        cameras: by name.
        known: whether the bundle that serves says what calibration images looked like.
        on: whether anything is looked at.
        saved, refused: samples written, and left out as there was no room, or the disk not done with the one before.
        errors: images that could not be looked at, and samples that could not be written; `error`: the last.
    """

    cameras: Mapping[str, CameraDrift] = field(default_factory=dict)
    known: bool = False
    on: bool = False
    saved: int = 0
    refused: int = 0
    errors: int = 0
    error: str = ""
