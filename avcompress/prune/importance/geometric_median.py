"""Importance by how different a channel is from the others of its group: what is near their middle can be replaced.

Source: He et al.: Filter Pruning via Geometric Median, arXiv:1811.00250, equation 6.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.prune.groups import Coupling, Group
from avcompress.prune.importance.scores import Line, lines, relative
from avcompress.prune.weights import ready, weights_of
from avcompress.spec import Array
from engines.onnx_graph import fold_batch_norms, initializers


def fpgm(network: onnx.ModelProto, coupling: Coupling) -> dict[str, Array]:
    """The sum of the Euclidean distances of a channel's filters to those of all others, in parts of the group's mean.

    Filters are the weights that compute a channel, with batch normalization folded in; those of several producers are
    one vector. The weights that read it do not count: two channels with equal filters are one, whoever reads them.
    """
    plain = ready(network)
    constants = {**initializers(plain), **initializers(fold_batch_norms(plain))}
    filters = {(weight.tensor, weight.outputs) for weight in weights_of(plain)}

    def rows(group: Group) -> list[Array]:
        own = [line for line in lines(group) if (line.tensor, line.axis) in filters]
        return [_rows(numpy_helper.to_array(constants[line.tensor]), line) for line in own]

    parts = {group.name: rows(group) for group in coupling.groups}
    return relative({name: _distances(np.concatenate(each, axis=1)) for name, each in parts.items() if each})


def _rows(values: Array, line: Line) -> Array:
    """The filters of each channel, (channels, values), float64; zeros where one has fewer positions than others."""
    by_position = np.moveaxis(values, line.axis, 0).reshape(values.shape[line.axis], -1).astype(np.float64)
    order = np.argsort(line.channels, kind="stable")
    counts = np.bincount(line.channels, minlength=line.width)
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[line.channels[order]]
    rows = np.zeros((line.width, counts.max(), by_position.shape[1]))
    rows[line.channels[order], rank] = by_position[line.positions[order]]
    return rows.reshape(line.width, -1)


def _distances(rows: Array) -> Array:
    """Of every row the sum of its distances to the others; by one product of matrices."""
    squares = (rows * rows).sum(1)
    gaps = squares[:, None] + squares[None, :] - 2 * (rows @ rows.T)
    np.fill_diagonal(gaps, 0)
    return np.asarray(np.sqrt(np.maximum(gaps, 0)).sum(1))
