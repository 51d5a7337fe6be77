"""A weighted layer as a matrix product: what it reads and computes at single output positions.

A convolution's output at one position is its weights times the patch of the input under the kernel, and a matrix
product's is one row. A few rows of a layer stand for the whole of its inputs and outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from avcompress.spec import Array
from engines.onnx_graph import attribute

_SAME = (b"SAME_UPPER", b"SAME_LOWER")


@dataclass(frozen=True)
class Conv:
    """How a convolution walks over its input; one value for each spatial axis."""

    group: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def rows(self, data: Array, positions: NDArray[np.int64]) -> Array:
        """The patches at these output positions.

        Args:
            data: (N, C, *spatial), any type.
            positions: (n,), flat indices into the output's (N, *spatial).

        Returns: (group, n, C / group * kernel size), in the order of a weight's own axes.
        """
        edges = [(0, 0), (0, 0), *zip(self.before, self.after, strict=True)]
        padded = np.pad(data, edges) if any(map(any, edges)) else data
        sizes = padded.shape[2:]
        places = np.unravel_index(positions, (len(data), *self._output(sizes)))
        flat = np.zeros((len(positions), 1), np.int64)
        for size, place, stride, kernel, dilation in zip(
            sizes, places[1:], self.strides, self.kernel, self.dilations, strict=True
        ):
            along = place[:, None] * stride + np.arange(kernel)[None] * dilation
            flat = (flat[:, :, None] * size + along[:, None, :]).reshape(len(positions), -1)
        values = padded.reshape(*padded.shape[:2], -1)[places[0][:, None], :, flat]  # (n, kernel size, C)
        patches = values.transpose(0, 2, 1).reshape(len(positions), self.group, -1)
        return np.ascontiguousarray(patches.transpose(1, 0, 2))

    def _output(self, padded: tuple[int, ...]) -> tuple[int, ...]:
        reach = zip(padded, self.kernel, self.dilations, self.strides, strict=True)
        return tuple((size - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, dilation, stride in reach)

    def positions(self, data: tuple[int, ...]) -> int:
        """How many output positions an input of this shape, (N, C, *spatial), gives."""
        padded = zip(data[2:], self.before, self.after, strict=True)
        return int(data[0] * np.prod(self._output(tuple(sum(sizes) for sizes in padded))))

    def matrix(self, weight: Array) -> Array:
        """A weight, (M, C / group, *kernel), as (group, M / group, C / group * kernel size)."""
        return weight.reshape(self.group, len(weight) // self.group, -1)

    def weight(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `matrix`."""
        return matrix.reshape(shape)


@dataclass(frozen=True)
class Product:
    """A Gemm or MatMul with a constant second operand."""

    transposed_data: bool = False
    transposed_weight: bool = False

    def rows(self, data: Array, positions: NDArray[np.int64]) -> Array:
        """The rows, (1, n, K), that these output rows are computed from."""
        data = data.T if self.transposed_data else data
        return data.reshape(1, -1, data.shape[-1])[:, positions]

    def positions(self, data: tuple[int, ...]) -> int:
        """How many rows an input of this shape has."""
        return data[-1] if self.transposed_data else int(np.prod(data[:-1]))

    def matrix(self, weight: Array) -> Array:
        """A weight as (1, M, K)."""
        return (weight if self.transposed_weight else weight.T)[None]

    def weight(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `matrix`."""
        weight: Array = matrix[0] if self.transposed_weight else matrix[0].T
        return weight.reshape(shape)


Geometry = Conv | Product


def geometry(node: onnx.NodeProto, data: tuple[int, ...], weight: tuple[int, ...]) -> Geometry | None:
    """How a weighted operator becomes a matrix product, given its operands' shapes; None for ConvTranspose.

    None, too, for a Conv whose padding depends on its input's size (SAME) where that is unknown: an empty shape.

    Source: ONNX Conv, Gemm and MatMul.
    """
    match node.op_type:
        case "Conv":
            known = data or attribute(node, "auto_pad", b"NOTSET") not in _SAME
            return _conv(node, data, weight) if known else None
        case "Gemm":
            return Product(
                bool(attribute(node, "transA", 0)),
                bool(attribute(node, "transB", 0)),
            )
        case "MatMul" if len(weight) == 2:
            return Product()
        case _:
            return None


def _conv(node: onnx.NodeProto, data: tuple[int, ...], weight: tuple[int, ...]) -> Conv:
    kernel = weight[2:]
    rank = len(kernel)
    strides, dilations = _ints(node, "strides", (1,) * rank), _ints(node, "dilations", (1,) * rank)
    pads = _ints(node, "pads", (0,) * 2 * rank)
    before, after = pads[:rank], pads[rank:]
    mode = attribute(node, "auto_pad", b"NOTSET")
    if mode in _SAME:
        total = [
            max((-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
            for size, stride, dilation, k in zip(data[2:], strides, dilations, kernel, strict=True)
        ]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (small, large) if mode == b"SAME_UPPER" else (large, small)
    return Conv(int(str(attribute(node, "group", 1))), kernel, strides, dilations, before, after)


def _ints(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    found = attribute(node, name, default)
    return tuple(found) if isinstance(found, (list, tuple)) else default
