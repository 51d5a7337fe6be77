"""Collects the statistics of a network's tensors over a calibration set, one image at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from avcompress.shots import Shot, shots
from avcompress.spec import Batch, DataError
from calibration.batches import Batches
from calibration.drives import drives_of
from calibration.figures import input_figures, output_figures
from calibration.histogram import Scratch, Tally
from calibration.statistics import WINDOW, Image, Statistics, TensorStatistics, preprocess_digest
from engines.in_memory import THREADS


def observe(model: onnx.ModelProto, tensors: Iterable[str], batches: Iterable[Batch]) -> Statistics:
    """Run the network on every image and gather what every range method needs of the given float32 tensors.

    Raises DataError when there is no image, an image does not fit the network's input, or a value is not finite: it
    names the first such tensor, and the image.
    """
    wanted, ends = tuple(dict.fromkeys(tensors)), tuple(value.name for value in model.graph.output)
    tallies = {tensor: Tally() for tensor in wanted}
    seen = _Seen()
    scratches = [Scratch() for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:  # counting releases the interpreter's lock
        for shot in shots(model, tuple(dict.fromkeys((*wanted, *ends))), batches):
            shares = [[(tensor, tallies[tensor]) for tensor in wanted[i::THREADS]] for i in range(THREADS)]
            try:
                found = dict(pair for pairs in pool.map(_count_, shares, scratches, repeat(shot)) for pair in pairs)
            except DataError:
                _refuse_first(shot, wanted)
                raise
            extremes = np.array([found[tensor] for tensor in wanted], np.float32).reshape(-1, 2)
            seen.add_(shot.image, extremes, _figures(model, shot, batches))
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


class _OfImage(NamedTuple):
    image: Image
    extremes: NDArray[np.float32]
    figures: Mapping[str, float]


class _Seen:
    """The images so far; of the last ones by name the figures, and the lowest and highest values of each tensor."""

    def __init__(self) -> None:
        self._images: list[Image] = []
        self._last: list[_OfImage] = []

    def add_(self, image: Image, extremes: NDArray[np.float32], figures: Mapping[str, float]) -> None:
        """Take one image: extremes are (tensors, 2)."""
        self._images.append(image)
        self._last.append(_OfImage(image, extremes, figures))
        if len(self._last) >= 2 * WINDOW:
            self._last = self._sorted()

    def _sorted(self) -> list[_OfImage]:
        return sorted(self._last, key=lambda each: each.image)[-WINDOW:]

    @property
    def images(self) -> tuple[Image, ...]:
        """By name."""
        return tuple(sorted(self._images))

    @property
    def extremes(self) -> NDArray[np.float32]:
        """(images, tensors, 2)."""
        return np.stack([each.extremes for each in self._sorted()])

    @property
    def figures(self) -> dict[str, NDArray[np.float32]]:
        """By name, (images,); NaN where an image's was not finite."""
        last = self._sorted()
        names = dict.fromkeys(name for each in last for name in each.figures)
        return {name: np.array([each.figures.get(name, np.nan) for each in last], np.float32) for name in names}


def _figures(model: onnx.ModelProto, shot: Shot, batches: Iterable[Batch]) -> dict[str, float]:
    """What a vehicle compares its images with; of images whose preprocessing is not known nothing."""
    if not isinstance(batches, Batches) or shot.geometry is None:
        return {}
    value = shot.values[model.graph.input[0].name]
    outputs = output_figures({each.name: shot.values[each.name] for each in model.graph.output})
    return {**input_figures(value, shot.geometry, batches.settings), **outputs}


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
        figures=seen.figures,
    )
