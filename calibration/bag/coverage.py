"""What a selection covers of a drive: by brightness, content and time, as plain values for a page, a table or JSON."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.bag.choosing import BANDS, BORDERS, Chosen, Numbers
from calibration.bag.scanning import Scan

SPANS = 10
"""Equal stretches of the drive that are told apart."""


@dataclass(frozen=True)
class Share:
    """A group of frames: how many differ from each other, how many of them are taken."""

    name: str
    distinct: int
    taken: int


@dataclass(frozen=True)
class Coverage:
    """Where the frames of a drive went.

    Attributes:
        size: height, width.
        recorded_s: how long the recording is.
        read: frames in the range of time; the next four and `taken` are of these.
        too_soon: left out by the rate.
        unreadable: cannot be decoded.
        duplicates: hardly differ from the one before.
        distinct: what is left, of which `taken` are taken.
        brightness, content, time: `distinct` and `taken` by band of mean luma, kind of content, stretch of the drive.
    """

    bag: str
    topic: str
    size: tuple[int, int]
    recorded_s: float
    read: int
    too_soon: int
    unreadable: int
    duplicates: int
    distinct: int
    taken: int
    brightness: tuple[Share, ...]
    content: tuple[Share, ...]
    time: tuple[Share, ...]

    @property
    def line(self) -> str:
        """In one line."""
        looked_at = self.read - self.too_soon
        dark_to_bright = ", ".join(f"{share.taken} {share.name.partition(' ')[0]}" for share in self.brightness)
        return (
            f"{self.bag}, {self.topic}: {self.read} frames, {looked_at} looked at, {self.duplicates} duplicates, "
            f"{self.unreadable} unreadable, {self.taken} taken ({dark_to_bright})"
        )


def coverage(bag: str, topic: str, span_ns: tuple[int, int], found: Scan, chosen: Chosen) -> Coverage:
    """Count what was found and chosen; `span_ns`: when the recording began and ended."""
    begun, ended = span_ns
    width = max(ended - begun, 1) / SPANS
    at = np.array([frame.recorded_ns - begun for frame in found.distinct], np.float64)
    spans = np.clip((at / width).astype(np.int64), 0, SPANS - 1)
    edges = [f"{(i * width) / 1e9:.1f}-{((i + 1) * width) / 1e9:.1f} s" for i in range(SPANS)]
    kinds = int(chosen.clusters.max()) + 1
    return Coverage(
        bag=bag,
        topic=topic,
        size=found.size or (0, 0),
        recorded_s=(ended - begun) / 1e9,
        read=found.read,
        too_soon=found.read - found.looked_at,
        unreadable=len(found.unreadable),
        duplicates=found.duplicates,
        distinct=len(found.distinct),
        taken=len(chosen.indices),
        brightness=_shares(_bands(), chosen.bands, chosen),
        content=_shares([f"content {k + 1}" for k in range(kinds)], chosen.clusters, chosen),
        time=_shares(edges, spans, chosen),
    )


def _bands() -> list[str]:
    low, high = BORDERS
    limits = (f"below {low:g}", f"{low:g} to {high:g}", f"from {high:g}")
    return [f"{name} ({limit})" for name, limit in zip(BANDS, limits, strict=True)]


def _shares(names: list[str], groups: Numbers, chosen: Chosen) -> tuple[Share, ...]:
    there = np.bincount(groups, minlength=len(names))
    taken = np.bincount(groups[chosen.indices], minlength=len(names))
    return tuple(Share(name, int(n), int(k)) for name, n, k in zip(names, there, taken, strict=True))
