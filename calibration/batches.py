"""What the compression methods consume: network inputs, one image at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from avcompress.recipe import Preprocess
from avcompress.spec import Array, Batch, Track, untracked
from calibration.part import take_part
from calibration.preprocess import Geometry, preprocess
from calibration.source import Source


class NamedBatch(dict[str, Array]):
    """A Batch that knows what its images are called, and where they lie in it, for messages and for statistics.

    `geometries`: one an image, or none where it is not known.
    """

    def __init__(
        self, arrays: Mapping[str, Array], names: tuple[str, ...], geometries: tuple[Geometry, ...] = ()
    ) -> None:
        super().__init__(arrays)
        self.names, self.geometries = names, geometries


@dataclass(frozen=True)
class Batches:
    """The images of a source as {input_name: (1, 3, H, W) float32}, read anew each time they are gone through.

    `limit`: the first so many of them.
    """

    source: Source
    settings: Preprocess
    input_name: str
    track: Track = untracked
    limit: int | None = None

    def __len__(self) -> int:
        count = len(self.source)
        return count if self.limit is None else min(self.limit, count)

    def __iter__(self) -> Iterator[Batch]:
        for sample in self.track(islice(self.source, self.limit), len(self)):
            value, geometry = preprocess(sample.image, self.settings)
            yield NamedBatch({self.input_name: value}, (sample.name,), (geometry,))


def spread(batches: Iterable[Batch], images: int) -> Iterable[Batch]:
    """At most so many of the images, evenly spread where their number is known: the first frames of a drive look alike.

    Where it is not known, the first ones.
    """
    if isinstance(batches, Batches) and batches.limit is None and len(batches) > images:
        return replace(batches, source=take_part(batches.source, 1, -(-len(batches) // images)))
    return islice(batches, images)
