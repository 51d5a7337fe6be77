"""From a table of measurements to the latency of any widths between them.

Each node's time is a + b·(inputs · outputs) + c·inputs + d·outputs, none of them below zero, fitted to its measured
times; widths count in whole blocks of the runtime's vectors, so that the curve has the steps that kernels have. The
block is the one that explains the table best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from avcompress.prune.latency.table import LatencyTable
from avcompress.prune.latency.widths import Counts, Floats, Widths
from avcompress.spec import DataError

_BLOCKS = (1, 4, 8, 16)
_TERMS = 4
FEWEST = 6
"""Designs below which four numbers a node are guesses."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """Latency by widths.

    Attributes:
        widths: of the network's nodes.
        block: channels that the runtime computes together.
        terms: (nodes, 4) ms: constant, of inputs times outputs, of inputs, of outputs, each a share of the dense one's.
        others: (2,) ms of what the runtime adds: constant, and of the mean width.
        whole: (2,) the whole network beside the sum of its nodes: ms, factor.
    """

    widths: Widths
    block: int
    terms: Floats
    others: Floats
    whole: Floats

    def total_ms(self, counts: Counts) -> Floats:
        """(n,): what the whole network takes, for each of (n, groups) channels removed."""
        features = _features(self.widths, counts, self.block)
        parts = (self.terms * features).sum(axis=(1, 2)) + _mean_width(self.widths, features) @ self.others
        return np.asarray(self.whole[0] + self.whole[1] * parts)


def fit(table: LatencyTable, widths: Widths) -> Predictor:
    """The predictor that explains a table best; raises DataError for a table of too few designs."""
    if len(table.designs) < FEWEST:
        raise DataError(
            f"latency table: expected at least {FEWEST} designs, got {len(table.designs)}; measure it again"
        )
    fits = [_fit(table, widths, block) for block in _BLOCKS]
    return min(fits, key=lambda found: found[0])[1]


def _fit(table: LatencyTable, widths: Widths, block: int) -> tuple[float, Predictor]:
    features = _features(widths, np.array([design.removed for design in table.designs]), block)
    # Nodes were timed one network after the other, whole networks in turns: the machine may have been slower for one of
    # them, and its nodes' shares of its own whole time are what holds.
    slower = np.array([(sum(d.layers_ms.values()) + d.others_ms) / d.total_ms for d in table.designs])
    times = np.array([[d.layers_ms.get(name, 0.0) for name in widths.nodes] for d in table.designs]) / slower[:, None]
    terms, residual = np.zeros((len(widths.nodes), _TERMS)), 0.0
    for node in range(len(widths.nodes)):
        if times[:, node].any():
            terms[node], error = nnls(features[:, node], times[:, node])
            residual += error**2
    means = _mean_width(widths, features)
    others, error = nnls(means, np.array([design.others_ms for design in table.designs]) / slower)
    sums = (features * terms).sum(axis=(1, 2)) + means @ others
    whole, _ = nnls(np.stack([np.ones_like(sums), sums], axis=1), np.array([d.total_ms for d in table.designs]))
    return residual + error**2, Predictor(widths, block, terms, others, whole)


def _features(widths: Widths, counts: Counts, block: int) -> Floats:
    """(n, nodes, 4): 1, inputs · outputs, inputs, outputs, in shares of the dense network's whole blocks."""
    shares = np.ceil(widths.kept(counts) / block - 1e-9) / np.ceil(widths.dense / block)
    outputs, inputs = shares[..., 1], shares[..., 0] * widths.products
    return np.stack([np.ones_like(outputs), inputs * outputs, inputs, outputs], axis=-1)


def _mean_width(widths: Widths, features: Floats) -> Floats:
    """(n, 2): 1, and the outputs' share in the mean over all elements."""
    means = np.average(features[..., 3], axis=1, weights=widths.elements)
    return np.stack([np.ones_like(means), means], axis=-1)
