"""Second moments of layers' inputs, and of what their outputs lack: all that a least-squares fit of weights needs.

Weights W + D on the quantized inputs x of a layer, and its bias as it is by now, shall give what the float layer makes
of its float inputs. With e the output that is missing at D = 0, the mean squared error of a channel is D H D' - 2 D c +
p, where H = E[x x'], c = E[e x], p = E[e e]. The moments are sums, so that their size does not grow with the number of
images.

The inputs are the float network's, on the layer's own grid; the errors of the layers before are left out on purpose.
Least squares on inputs with errors shrinks the weights, and layer after layer shrinks what it gets. Measured on
YOLOX-nano with 5-bit weights in one trial of 24 images (AP .078 rounded to nearest): fitted to the quantized network's
own inputs, taken anew for every few layers, AP .001; fitted as here, .199. One pass over the images then does for all
layers, in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from avcompress.patches import Geometry, geometry
from avcompress.quant.int8_layers import Int8Layer, constant_bias
from avcompress.shots import shots
from avcompress.spec import Array, Artifact, Batch, DataError
from engines.onnx_graph import attribute, initializers, shapes

ROWS = 128
"""Output positions of a layer that are taken from an image; more from the first few, so that few images do, too."""
_FIRST_ROWS = 1024
BUDGET_BYTES = 192 << 20
"""Layers are taken together while their moments fit in here: one pass over the images for each such part."""
WIDEST = 4096
"""Weights of one output channel, at most: the moments grow with their square."""
_HELD_OUT = 4  # every fourth image


@dataclass(frozen=True, eq=False)
class Moments:
    """What is known of a layer on some images.

    Attributes:
        inputs: (G, K, K), E[x x'].
        cross: (G, M, K), E[e x].
        power: (G, M), E[e e].
    """

    inputs: NDArray[np.float32]
    cross: NDArray[np.float32]
    power: NDArray[np.float32]

    def error(self, change: NDArray[np.float32]) -> NDArray[np.float64]:
        """The mean squared error of every output channel, (G, M), of weights changed by `change`, (G, M, K)."""
        added = ((change @ self.inputs - 2 * self.cross) * change).sum(-1, dtype=np.float64)
        error: NDArray[np.float64] = np.maximum(added + self.power, 0)
        return error


@dataclass(frozen=True, eq=False)
class Fit:
    """A layer as a matrix product.

    Attributes:
        layer: where it is in the graph.
        number: its place among the layers.
        source: the tensor that it reads in the float network.
        geometry: how its rows are read.
        weight: (G, M, K), float32, of the float network.
        shift: (G, 1, M), float32, what the float network's bias has more than the quantized one's, which may be
            corrected by now; in the unit of the matrix product.
    """

    layer: Int8Layer
    number: int
    source: str
    geometry: Geometry
    weight: NDArray[np.float32]
    shift: NDArray[np.float32]

    @property
    def size_bytes(self) -> int:
        """Of the moments to learn from and those to judge by."""
        groups, channels, width = self.weight.shape
        return 8 * int(groups * (width * width + channels * width + channels))


def fit(artifact: Artifact, layer: Int8Layer, number: int) -> Fit | str:
    """Describe a layer as a matrix product; the reason where it cannot be one."""
    original = next(node for node in artifact.reference.graph.node if node.name == layer.name)
    weight = numpy_helper.to_array(initializers(artifact.reference)[layer.float_weight])
    found = geometry(original, shapes(artifact.reference).get(original.input[0], ()), weight.shape)
    if found is None:
        return f"{layer.node.op_type} is not fitted"
    matrix = np.ascontiguousarray(found.matrix(weight), np.float32)
    if matrix.shape[2] > WIDEST:
        return f"{matrix.shape[2]} weights a channel are more than {WIDEST}"
    groups, channels = matrix.shape[:2]
    shift = np.broadcast_to(_shift(artifact, layer.node, original), groups * channels)
    return Fit(layer, number, original.input[0], found, matrix, shift.reshape(groups, 1, channels).astype(np.float32))


def _shift(artifact: Artifact, node: onnx.NodeProto, original: onnx.NodeProto) -> NDArray[np.float64]:
    """What the float layer's bias has more than the quantized one's, in the unit of the matrix product: (M,) or ()."""
    biases = [constant_bias(artifact.reference, original), constant_bias(artifact.model, node)]
    if biases[0] is None or biases[1] is None:
        return np.zeros(())
    return np.asarray((biases[0] - biases[1]) / (float(str(attribute(node, "alpha", 1.0))) or 1.0))


def parts(fits: Sequence[Fit]) -> Iterator[tuple[Fit, ...]]:
    """Cut a list of layers into runs whose moments fit into the budget together."""
    part: list[Fit] = []
    for one in fits:
        if part and sum(other.size_bytes for other in (*part, one)) > BUDGET_BYTES:
            yield tuple(part)
            part = []
        part.append(one)
    if part:
        yield tuple(part)


def measure(
    artifact: Artifact, fits: Sequence[Fit], batches: Iterable[Batch], seed: int
) -> list[tuple[Moments, Moments]]:
    """The moments of every layer on rows to learn from, and on rows of other images to judge by.

    Every fourth image is held out, and a quarter of the first one.
    Raises DataError when there is no image, or an input of a layer is not finite.
    """
    sums = [(_Sum(one.weight.shape), _Sum(one.weight.shape)) for one in fits]
    random = [np.random.default_rng((seed, one.number)) for one in fits]
    sources = tuple(dict.fromkeys(one.source for one in fits))
    for number, shot in enumerate(shots(artifact.reference, sources, batches)):
        for one, pair, generator in zip(fits, sums, random, strict=True):
            data, lacking = _rows(one, shot.values[one.source], generator, number)
            if not np.isfinite(data).all():
                raise DataError(
                    f"{one.source!r}, {shot.where}: expected finite values, got NaN or infinity; "
                    "check the image and the network's weights"
                )
            rows = data.shape[1]
            cut = -(-3 * rows // 4) if number == 0 else rows * (number % _HELD_OUT != 1)
            pair[0].add(data[:, :cut], lacking[:, :cut])
            pair[1].add(data[:, cut:], lacking[:, cut:])
    return [(learn.mean(), judge.mean()) for learn, judge in sums]


class _Sum:
    """Moments while they are summed; every image counts the same."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        groups, channels, width = shape
        self.moments = Moments(
            np.zeros((groups, width, width), np.float32),
            np.zeros((groups, channels, width), np.float32),
            np.zeros((groups, channels), np.float32),
        )
        self.images = 0

    def add(self, data: Array, lacking: Array) -> None:
        """Add an image: (G, n, K) inputs and (G, n, M) missing outputs; nothing where n is 0."""
        rows = data.shape[1]
        if rows:
            transposed = data.transpose(0, 2, 1) / np.float32(rows)
            self.moments.inputs[...] += transposed @ data
            self.moments.cross[...] += (transposed @ lacking).transpose(0, 2, 1)
            self.moments.power[...] += np.square(lacking).mean(1)
            self.images += 1

    def mean(self) -> Moments:
        images = np.float32(max(self.images, 1))
        return Moments(self.moments.inputs / images, self.moments.cross / images, self.moments.power / images)


def _rows(one: Fit, values: Array, random: np.random.Generator, image: int) -> tuple[Array, Array]:
    """Inputs of the layer at some output positions, on its grid, and what the float weights lack there: float32."""
    wanted = max(ROWS, _FIRST_ROWS // (image + 1))
    there = one.geometry.positions(values.shape)
    positions = random.integers(0, there, wanted) if there > wanted else random.permutation(there)
    data = one.geometry.rows(values, positions)
    grid = one.layer.data
    if grid is None:
        return data, np.broadcast_to(one.shift, (*data.shape[:2], one.weight.shape[1]))
    steps = np.clip(np.rint(data / grid.scale) + grid.zero_point, grid.qmin, grid.qmax) - grid.zero_point
    quantized = steps * grid.scale
    return quantized, (data - quantized) @ one.weight.transpose(0, 2, 1) + one.shift
