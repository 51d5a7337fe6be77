"""Collects the statistics of a network's tensors over a calibration set, one image at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from avcompress.shots import Shot, shots
from avcompress.spec import Batch, DataError
from calibration.batches import Batches
from calibration.drives import drives_of
from calibration.histogram import Scratch, Tally
from calibration.statistics import WINDOW, Image, Statistics, TensorStatistics, preprocess_digest
from engines.in_memory import THREADS


def observe(model: onnx.ModelProto, tensors: Iterable[str], batches: Iterable[Batch]) -> Statistics:
    """Run the network on every image and gather what every range method needs of the given float32 tensors.

    Raises DataError when there is no image, an image does not fit the network's input, or a value is not finite: it
    names the first such tensor, and the image.
    """
    wanted = tuple(dict.fromkeys(tensors))
    tallies = {tensor: Tally() for tensor in wanted}
    seen = _Seen()
    scratches = [Scratch() for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:  # counting releases the interpreter's lock
        for shot in shots(model, wanted, batches):
            shares = [[(tensor, tallies[tensor]) for tensor in wanted[i::THREADS]] for i in range(THREADS)]
            try:
                found = dict(pair for pairs in pool.map(_count_, shares, scratches, repeat(shot)) for pair in pairs)
            except DataError:
                _refuse_first(shot, wanted)
                raise
            seen.add_(shot.image, np.array([found[tensor] for tensor in wanted], np.float32).reshape(-1, 2))
    return _statistics(model, tallies, seen, batches)


def network_digest(model: onnx.ModelProto) -> str:
    """A hash over what a network computes: its nodes, constants, inputs and outputs, but not what is noted beside."""
    graph = model.graph
    digest = hashlib.sha256()
    for part in (*model.opset_import, *graph.input, *graph.output, *graph.node, *graph.initializer):
        content = _bare(part).SerializeToString(deterministic=True)
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:16]


def _bare(part: Any) -> Any:
    """A part of a model without notes: exporters put paths of their machine there."""
    noted = [name for name in ("doc_string", "metadata_props") if name in part.DESCRIPTOR.fields_by_name]
    if not any(getattr(part, name) for name in noted):
        return part
    bare = type(part)()
    bare.CopyFrom(part)
    for name in noted:
        bare.ClearField(name)
    return bare


# --- counting


class _Seen:
    """The images so far, and the lowest and highest values of each tensor on the last ones by name."""

    def __init__(self) -> None:
        self._images: list[Image] = []
        self._last: list[tuple[Image, NDArray[np.float32]]] = []

    def add_(self, image: Image, extremes: NDArray[np.float32]) -> None:
        """Take one image: extremes are (tensors, 2)."""
        self._images.append(image)
        self._last.append((image, extremes))
        if len(self._last) >= 2 * WINDOW:
            self._last = self._sorted()

    def _sorted(self) -> list[tuple[Image, NDArray[np.float32]]]:
        return sorted(self._last, key=lambda pair: pair[0])[-WINDOW:]

    @property
    def images(self) -> tuple[Image, ...]:
        """By name."""
        return tuple(sorted(self._images))

    @property
    def extremes(self) -> NDArray[np.float32]:
        """(images, tensors, 2)."""
        return np.stack([extremes for _, extremes in self._sorted()])


def _count_(share: list[tuple[str, Tally]], scratch: Scratch, shot: Shot) -> list[tuple[str, tuple[float, float]]]:
    """Count a share of the tensors; returns the lowest and highest value of each."""
    return [(name, tally.add_(shot.values[name], scratch, f"{name!r}, {shot.where}")) for name, tally in share]


def _refuse_first(shot: Shot, wanted: tuple[str, ...]) -> None:
    """Raise DataError for the first tensor of which a value is not finite: the ones after it may only follow."""
    for tensor in wanted:
        Tally().add_(shot.values[tensor], Scratch(), f"{tensor!r}, {shot.where}")


def _statistics(
    model: onnx.ModelProto, tallies: Mapping[str, Tally], seen: _Seen, batches: Iterable[Batch]
) -> Statistics:
    extremes = seen.extremes
    return Statistics(
        network=network_digest(model),
        preprocess=preprocess_digest(batches.settings) if isinstance(batches, Batches) else "",
        images=seen.images,
        tensors={
            tensor: TensorStatistics(tally.histogram, np.ascontiguousarray(extremes[:, i]))
            for i, (tensor, tally) in enumerate(tallies.items())
        },
        drives=drives_of(batches.source) if isinstance(batches, Batches) else (),
    )
