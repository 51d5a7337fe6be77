"""A source of images as bad weather, darkness or a worse camera would show them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from calibration.sample import Sample, Source
from validation.corruptions.kinds import VERSION, Corruption, corrupt, image_seed


@dataclass(frozen=True)
class CorruptedSource:
    """A Source: the images of another, corrupted; names, labels and tags as they are.

    Each image's seed comes from its name, so that it is corrupted alike in whatever order or part it is read.

    Attributes:
        clean: the source it wraps.
        corruption: what is done to every image.
        seed: another one gives other weather.
    """

    clean: Source
    corruption: Corruption
    seed: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The clean source's."""
        return self.clean.classes

    @property
    def names(self) -> tuple[str, ...]:
        """The clean source's."""
        return self.clean.names

    @property
    def fingerprint(self) -> str:
        """The sha256, in hex, of what decides every picture and label: parameters and libraries' versions, too."""
        # Other versions of these may round, or draw, differently.
        libraries = f"numpy {np.__version__} opencv {cv2.__version__}"
        what = f"{self.corruption.slice} {self.corruption.level} version {VERSION} seed {self.seed} {libraries}"
        return hashlib.sha256(f"{self.clean.fingerprint} {what}".encode()).hexdigest()

    @property
    def skipped(self) -> tuple[str, ...]:
        """The clean source's."""
        return self.clean.skipped

    def __len__(self) -> int:
        return len(self.clean)

    def __iter__(self) -> Iterator[Sample]:
        return (self._corrupted(sample) for sample in self.clean)

    def __getitem__(self, index: int, /) -> Sample:
        return self._corrupted(self.clean[index])

    def _corrupted(self, sample: Sample) -> Sample:
        seed = image_seed(sample.name, self.corruption.name, self.seed)
        return replace(sample, image=corrupt(sample.image, self.corruption.name, self.corruption.severity, seed))
