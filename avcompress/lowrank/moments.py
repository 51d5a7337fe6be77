"""What is known of a layer's inputs: mean and covariance of the values under its kernel, over calibration images.

With them the error of a layer's output follows from that of its weights: a change D of the weights (M, K) changes the
outputs by D x, whose variance, summed over channels, is trace(D H D') with H the covariance of x; what it changes in
the mean goes into the bias.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from avcompress.lowrank.forms import Floats
from avcompress.lowrank.layers import Layer
from avcompress.shots import shots
from avcompress.spec import Array, Batch, DataError

ROWS = 256
"""Output positions of a layer that are taken from an image; more from the first few, so that few images do, too."""
_FIRST_ROWS = 4096
BUDGET_BYTES = 256 << 20
"""Layers are taken together while their moments fit in here: one pass over the images for each such part."""
WIDEST = 4608
"""Weights of one output channel, at most: 512 channels under 3x3. The moments grow with their square."""
_HELD_OUT = 4  # every fourth image


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the values under a layer's kernel, in the order of its weight's own axes.

    Attributes:
        mean: (K,); zeros where the layer can have no bias.
        spread: (K, K), their covariance; the second moments, E[x x'], where the layer can have no bias.
    """

    mean: Floats
    spread: Floats


@dataclass(frozen=True, eq=False)
class Seen:
    """Moments on the images that are learned from, and on others."""

    learned: Moments
    held_out: Moments


def measure(
    network: onnx.ModelProto, layers: Sequence[Layer], batches: Iterable[Batch], seed: int = 0
) -> Mapping[str, Seen]:
    """The moments of every layer that is not wider than WIDEST, by name.

    Every fourth image is held out, and a quarter of the first one. `batches` are gone through several times where the
    moments do not fit into BUDGET_BYTES together.
    Raises DataError when there is no image, or an input of a layer is not finite.
    """
    found: dict[str, Seen] = {}
    for part in _parts([layer for layer in layers if layer.width <= WIDEST]):
        found.update(_measured(network, part, batches, seed))
    return found


def _parts(layers: Sequence[Layer]) -> Iterator[tuple[Layer, ...]]:
    part: list[Layer] = []
    for layer in layers:
        if part and sum(8 * each.width**2 for each in (*part, layer)) > BUDGET_BYTES:
            yield tuple(part)
            part = []
        part.append(layer)
    if part:
        yield tuple(part)


def _measured(
    network: onnx.ModelProto, layers: Sequence[Layer], batches: Iterable[Batch], seed: int
) -> Mapping[str, Seen]:
    sums = {layer.name: (_Sum(layer.width), _Sum(layer.width)) for layer in layers}
    # By name, so that the parts that layers are measured in make no difference.
    random = {layer.name: np.random.default_rng((seed, zlib.crc32(layer.name.encode()))) for layer in layers}
    sources = tuple(dict.fromkeys(layer.source for layer in layers))
    for number, shot in enumerate(shots(network, sources, batches)):
        for layer in layers:
            rows = _rows(layer, shot.values[layer.source], random[layer.name], number)
            if not np.isfinite(rows).all():
                raise DataError(
                    f"{layer.source!r}, {shot.where}: expected finite values, got NaN or infinity; "
                    "check the image and the network's weights"
                )
            cut = -(-3 * len(rows) // 4) if number == 0 else len(rows) * (number % _HELD_OUT != 1)
            learned, held_out = sums[layer.name]
            learned.add_(rows[:cut])
            held_out.add_(rows[cut:])
    return {layer.name: Seen(*(part.moments(layer.has_bias) for part in sums[layer.name])) for layer in layers}


def _rows(layer: Layer, values: Array, random: np.random.Generator, image: int) -> NDArray[np.float32]:
    """The inputs of a layer at some output positions, (n, K)."""
    wanted = max(ROWS, _FIRST_ROWS // (image + 1))
    there = layer.geometry.positions(values.shape)
    positions = random.integers(0, there, wanted) if there > wanted else random.permutation(there)
    rows: NDArray[np.float32] = layer.geometry.rows(values, positions)[0]
    return rows


class _Sum:
    """Moments while they are summed; every image counts the same."""

    def __init__(self, width: int) -> None:
        self.mean = np.zeros(width, np.float64)
        self.square = np.zeros((width, width), np.float32)
        self.images = 0

    def add_(self, rows: NDArray[np.float32]) -> None:
        """Add an image's rows, (n, K); nothing where n is 0."""
        if len(rows):
            self.mean += rows.mean(0, dtype=np.float64)
            self.square += rows.T @ rows / np.float32(len(rows))
            self.images += 1

    def moments(self, centred: bool) -> Moments:
        """Of all images so far."""
        images = max(self.images, 1)
        mean = (self.mean / images if centred else np.zeros_like(self.mean)).astype(np.float32)
        return Moments(mean, self.square / np.float32(images) - np.outer(mean, mean))
