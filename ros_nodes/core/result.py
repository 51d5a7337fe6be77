"""What is found in one frame, and when what was done."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from calibration.frame import Header
from validation.predict import Prediction


class Moments(NamedTuple):
    """Readings of the monotonic clock: one ends a stage and begins the next, so stages are disjoint and add up."""

    arrived_ns: int
    taken_ns: int
    decoded_ns: int
    prepared_ns: int
    inferred_ns: int
    finished_ns: int

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds by stage: those of a batch are of all its frames together, but for the first."""
        return dict(zip(STAGES, (ns / 1e6 for ns in _differences(self)), strict=True))


STAGES = ("waiting", "decode", "preprocess", "inference", "postprocess")
"""What passes between consecutive moments: of these, `waiting` is the frame's own."""


def _differences(moments: Moments) -> list[int]:
    return [after - before for before, after in itertools.pairwise(moments)]


@dataclass(frozen=True, eq=False)
class Result:
    """What is found in one frame.

    Attributes:
        header: the frame's own.
        size: height, width of the image.
        prediction: boxes in pixels of the image, or a mask (H, W) of its size.
        engine: that found it, for people.
    """

    camera: str
    header: Header
    size: tuple[int, int]
    prediction: Prediction
    engine: str
    moments: Moments
