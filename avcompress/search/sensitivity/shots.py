"""The images that a sensitivity analysis looks at, with what the float network says to them: as files.

So processes share them, memory holds one image at a time, and no image is preprocessed or run through the float network
twice.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from avcompress.shots import shots
from avcompress.spec import Array, Batch, DataError
from engines.in_memory import open_model


@dataclass(frozen=True)
class Shots:
    """So many images in a folder.

    Attributes:
        folder: holds them.
        source: the network's input.
        count: of images.
        digest: over all of them.
        held: the files' bytes by name, in the folder's place: for other machines.
    """

    folder: Path
    source: str
    count: int
    digest: str
    held: Mapping[str, bytes] | None = None

    def image(self, number: int) -> Array:
        """(1, C, H, W), float32."""
        found: Array = np.load(self._file(f"{number}.npy"), allow_pickle=False)
        return found

    def answers(self, number: int) -> list[Array]:
        """The float network's outputs for an image."""
        with np.load(self._file(f"{number}.npz"), allow_pickle=False) as found:
            return [found[name] for name in found.files]

    def blocks(self, size: int) -> list[tuple[int, ...]]:
        """The images' numbers, a few at a time."""
        return [tuple(range(start, min(start + size, self.count))) for start in range(0, self.count, size)]

    def moved(self) -> Shots:
        """The same, in memory."""
        return replace(self, held={path.name: path.read_bytes() for path in self.folder.iterdir()})

    def _file(self, name: str) -> Path | io.BytesIO:
        return self.folder / name if self.held is None else io.BytesIO(self.held[name])


def keep_shots(model: onnx.ModelProto, batches: Iterable[Batch], count: int, folder: Path) -> Shots:
    """Write the first images, at most so many, and a float network's answers into a folder.

    Raises DataError where there are none, or one does not fit.
    """
    (source,) = (value.name for value in model.graph.input)
    session = open_model(model, optimize=True, threads=1)
    digest, number = hashlib.sha256(), 0
    for number, image in enumerate(_images(model, source, batches, count), start=1):
        np.save(folder / f"{number - 1}.npy", image)
        np.savez(folder / f"{number - 1}.npz", *session.run(None, {source: image}))
        digest.update(image.tobytes())
    if not number:
        raise DataError("sensitivity: expected at least one image, got none; check data.calibration")
    return Shots(folder, source, number, digest.hexdigest())


def _images(model: onnx.ModelProto, source: str, batches: Iterable[Batch], count: int) -> Iterator[Array]:
    yield from (shot.values[source] for shot in islice(shots(model, (), batches), count))
