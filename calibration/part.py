"""A share of a source's images, for one of several machines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from avcompress.spec import DataError
from calibration.files import FileSource
from calibration.joined import Joined, Part
from calibration.sample import Sample, Source


def take_part(source: Source, number: int, of: int) -> Source:
    """Every `of`-th image of a source, from the `number`-th on, 1 to `of`; the parts together are the source.

    Raises DataError when nothing is left.
    """
    if number > len(source):
        raise DataError(
            f"--part {number}/{of}: expected at most as many parts as images, {len(source)}, got one that is empty; "
            "ask for fewer"
        )
    match source:
        case FileSource():
            return replace(source, records=source.records[number - 1 :: of])
        case Joined():
            return Joined(tuple(_parts_of(source, number, of)))
        case _:
            return Share(source, number, of)


def _parts_of(joined: Joined, number: int, of: int) -> Iterator[Part]:
    before = 0
    for part in joined.parts:
        first = (number - 1 - before) % of
        if first < len(part.source):
            yield part._replace(source=take_part(part.source, first + 1, of))
        before += len(part.source)


@dataclass(frozen=True)
class Share:
    """A Source: one share of another's samples, by index."""

    whole: Source
    number: int
    of: int

    @property
    def _indices(self) -> range:
        return range(self.number - 1, len(self.whole), self.of)

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the whole."""
        return self.whole.classes

    @property
    def names(self) -> tuple[str, ...]:
        """Of this share."""
        return tuple(self.whole.names[i] for i in self._indices)

    @property
    def fingerprint(self) -> str:
        """The sha256, in hex, of the whole's and of which share this is."""
        return hashlib.sha256(f"{self.whole.fingerprint} {self.number}/{self.of}".encode()).hexdigest()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Those of the whole."""
        return self.whole.skipped

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Sample]:
        return (self.whole[i] for i in self._indices)

    def __getitem__(self, index: int, /) -> Sample:
        return self.whole[self._indices[index]]
