"""Several sources as one: the images of all, in the order in which the recipe lists them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from avcompress.spec import DataError
from calibration.sample import Sample, Source


class Part(NamedTuple):
    """One of the sources; names of its images begin with `place`, a folder, so that they are told apart."""

    place: str
    source: Source

    def full(self, name: str) -> str:
        """An image's name among those of all parts."""
        return f"{self.place}/{name}"

    def named(self, sample: Sample) -> Sample:
        """The sample under its full name."""
        return replace(sample, name=self.full(sample.name))


@dataclass(frozen=True)
class Joined:
    """A Source; what one part leaves out or refuses is told by that part."""

    parts: tuple[Part, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The table of the parts that have one: it is the same."""
        return next((part.source.classes for part in self.parts if part.source.classes), ())

    @property
    def names(self) -> tuple[str, ...]:
        """Each with its folder before it."""
        return tuple(part.full(name) for part in self.parts for name in part.source.names)

    @property
    def fingerprint(self) -> str:
        """The sha256, in hex, of those of the parts."""
        return hashlib.sha256(json.dumps([part.source.fingerprint for part in self.parts]).encode()).hexdigest()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Of all parts."""
        return tuple(part.full(name) for part in self.parts for name in part.source.skipped)

    def __len__(self) -> int:
        return sum(len(part.source) for part in self.parts)

    def __iter__(self) -> Iterator[Sample]:
        return (part.named(sample) for part in self.parts for sample in part.source)

    def __getitem__(self, index: int, /) -> Sample:
        left = range(len(self))[index]
        for part in self.parts:
            if left < len(part.source):
                return part.named(part.source[left])
            left -= len(part.source)
        raise IndexError(index)


def join(parts: Sequence[Part]) -> Joined:
    """Join sources; labelled ones and others may be mixed.

    Raises DataError when they differ in their classes, or when an image is in two of them.
    """
    joined = Joined(tuple(parts))
    for part in parts:
        if part.source.classes not in ((), joined.classes):
            wanted, got = ", ".join(joined.classes), ", ".join(part.source.classes)
            raise DataError(
                f"{part.place}: expected the classes of the sources before it, {wanted[:100]}, got {got[:100]}; give "
                "the recipe's `classes`"
            )
    name, times = Counter(joined.names).most_common(1)[0]
    if times > 1:
        raise DataError(f"{name}: expected each image in one of the listed sources, got it in {times}; mend the list")
    return joined
