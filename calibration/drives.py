"""The recorded drives behind a source's images."""

from __future__ import annotations

from collections.abc import Iterator

from calibration.bag.drive import DriveSource
from calibration.joined import Joined
from calibration.part import Share
from calibration.sample import Source
from calibration.statistics import Drive


def drive_sources(source: Source) -> Iterator[DriveSource]:
    """A source's parts that are recorded drives."""
    # Those of its parts, and of the whole that a share is of.
    match source:
        case DriveSource():
            yield source
        case Joined():
            for part in source.parts:
                yield from drive_sources(part.source)
        case Share():
            yield from drive_sources(source.whole)


def drives_of(source: Source) -> tuple[Drive, ...]:
    """Where its images come from; reads whole bags."""
    return tuple(sorted({part.drive() for part in drive_sources(source)}))
