"""Several sources as one, one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from calibration.sample import Sample, Source


def join(sources: Sequence[Source]) -> Source:
    """One source of all samples; at least one source, all of the same classes."""
    return sources[0] if len(sources) == 1 else _Joined(tuple(sources))


@dataclass(frozen=True)
class _Joined:
    """A Source; its parts leave out what cannot be read as they would alone."""

    parts: tuple[Source, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.parts[0].classes

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(chain.from_iterable(part.names for part in self.parts))

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(" ".join(part.fingerprint for part in self.parts).encode()).hexdigest()

    @property
    def skipped(self) -> tuple[str, ...]:
        return tuple(chain.from_iterable(part.skipped for part in self.parts))

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Sample]:
        return chain.from_iterable(self.parts)

    def __getitem__(self, index: int, /) -> Sample:
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)
