"""From a table of measurements to the latency of any widths between them.

Each node's time is a + b·(inputs · outputs) + c·inputs + d·outputs + e·inputs where the outputs are no whole vectors,
none of them below zero, fitted to its measured times; widths count in whole blocks of the runtime's kernels, so that
the curve has the steps that they have. The block is the one that explains the table best.

What nodes take in a network is more than what they take alone, and less than simple curves say: layouts change between
them, caches are full or not. So what the sum missed of each whole network that was measured is interpolated to others,
by how much they are alike: a network that is tried makes the prediction right where it was tried. Tries were timed in
another hour than the table, and beside one network instead of twenty: what that makes is common to all of them.

Source: regression kriging with an exponential covariance: Cressie, Statistics for Spatial Data, 1993, ch. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from avcompress.prune.latency.table import Design, LatencyTable
from avcompress.prune.latency.widths import Counts, Floats, Widths
from avcompress.spec import DataError

_BLOCKS = (1, 4, 8, 16)
_VECTOR = 8
"""Channels of a vector register, AVX2's in single precision: kernels take what is left over one by one."""
_NOISE = 0.02
"""Of what is missed, the part of its variance that is chance: it is not said of the next measurement."""
FEWEST = 6
"""Designs below which five numbers a node are guesses."""


@dataclass(frozen=True, eq=False)
class _Sum:
    """What nodes take by their widths, and all of them together.

    Attributes:
        widths: of the network's nodes.
        block: channels that the runtime computes together.
        terms: (5, nodes) ms: constant, of inputs times outputs, of inputs, of outputs, each a share of the dense one's,
            and of inputs where the outputs are no whole vectors.
        others: (3,) ms of what the runtime adds: constant, of the mean width, of how much is no whole vectors.
        whole: (2,) the whole network beside the sum of its nodes: ms, factor.
    """

    widths: Widths
    block: int
    terms: Floats
    others: Floats
    whole: Floats

    def parts_ms(self, counts: Counts) -> Floats:
        """(n, nodes + 1): what each node takes in the whole, and what the runtime adds, by (n, groups) counts."""
        features = _features(self.widths, counts, self.block)
        nodes = sum(term * feature for term, feature in zip(self.terms, features, strict=True))
        added = _means(self.widths, features) @ self.others
        return np.asarray(self.whole[1] * np.column_stack([nodes, added]))

    def total_ms(self, parts: Floats) -> Floats:
        """(n,): what whole networks of such parts take."""
        return np.asarray(self.whole[0] + parts.sum(axis=1))


@dataclass(frozen=True, eq=False)
class Predictor:
    """Latency by widths.

    Attributes:
        sum: of what the nodes take.
        measured: (designs, nodes + 1) ms, the parts of the networks that were measured, as the sum has them.
        tried: (designs,) 1 of those that were tried, 0 of those of the table.
        missed: (designs,) what each of them tells of what the sum misses.
    """

    sum: _Sum
    measured: Floats
    tried: Floats
    missed: Floats

    @property
    def block(self) -> int:
        """Channels that the runtime computes together."""
        return self.sum.block

    def total_ms(self, counts: Counts) -> Floats:
        """(n,): what the whole network takes, for each of (n, groups) channels removed."""
        parts = self.sum.parts_ms(counts)
        known = _alike(parts, self.measured) + self.tried  # what is asked for would be a try, too
        return np.asarray(self.sum.total_ms(parts) * np.exp(known @ self.missed))


def fit(table: LatencyTable, widths: Widths, tries: Sequence[Design] = ()) -> Predictor:
    """The predictor that explains a table best, and networks that were tried since, of which whole times are enough.

    Raises DataError for a table of too few designs.
    """
    if len(table.designs) < FEWEST:
        raise DataError(
            f"latency table: expected at least {FEWEST} designs, got {len(table.designs)}; measure it again"
        )
    fits = [_fit(table.designs, widths, block) for block in _BLOCKS]
    best = min(fits, key=lambda found: found[0])[1]
    known = (*table.designs, *tries)
    parts = best.parts_ms(np.array([design.removed for design in known]))
    tried = np.repeat([0.0, 1.0], [len(table.designs), len(tries)])
    common = _alike(parts, parts) + np.outer(tried, tried) + _NOISE * np.eye(len(known))
    ratios = np.log([design.total_ms for design in known]) - np.log(best.total_ms(parts))
    return Predictor(best, parts, tried, np.linalg.solve(common, ratios))


def _alike(parts: Floats, measured: Floats) -> Floats:
    """(n, designs): from 1 for networks of equal parts towards 0, by the distance of their parts.

    It is counted in lengths of the first design's, which is the network as it is.
    """
    squares = (parts**2).sum(axis=1)[:, None] + (measured**2).sum(axis=1) - 2 * parts @ measured.T
    return np.asarray(np.exp(-np.sqrt(np.maximum(squares, 0) / (measured[0] ** 2).sum())))


def _fit(designs: Sequence[Design], widths: Widths, block: int) -> tuple[float, _Sum]:
    features = _features(widths, np.array([design.removed for design in designs]), block)
    # Nodes were timed one network after the other, whole networks in turns: the machine may have been slower for one of
    # them, and its nodes' shares of its own whole time are what holds.
    slower = np.array([(sum(d.layers_ms.values()) + d.others_ms) / d.total_ms for d in designs])
    times = np.array([[d.layers_ms.get(name, 0.0) for name in widths.nodes] for d in designs]) / slower[:, None]
    terms, residual = np.zeros((len(features), len(widths.nodes))), 0.0
    for node in range(len(widths.nodes)):
        if times[:, node].any():
            terms[:, node], error = nnls(features[:, :, node].T, times[:, node])
            residual += error**2
    means = _means(widths, features)
    others, error = nnls(means, np.array([design.others_ms for design in designs]) / slower)
    sums = np.einsum("fdn,fn->d", features, terms) + means @ others
    whole, _ = nnls(np.stack([np.ones_like(sums), sums], axis=1), np.array([d.total_ms for d in designs]))
    return residual + error**2, _Sum(widths, block, terms, others, whole)


def _features(widths: Widths, counts: Counts, block: int) -> Floats:
    """(5, n, nodes): what `terms` belong to; widths are shares of the dense network's whole blocks."""
    kept = widths.kept(counts)
    shares = np.ceil(kept / block - 1e-9) / np.ceil(widths.dense / block)
    outputs, inputs = shares[..., 1], shares[..., 0] * widths.products
    # What is left over beside whole vectors is computed for each input anew where work grows with both, else once.
    ragged = np.where(kept[..., 1] % _VECTOR > 0, np.where(widths.products, inputs, 1.0), 0.0)
    return np.stack([np.ones_like(outputs), inputs * outputs, inputs, outputs, ragged])


def _means(widths: Widths, features: Floats) -> Floats:
    """(n, 3): 1, the outputs' share in the mean over all elements, and the mean of where they are no whole vectors."""
    outputs, ragged = (np.average(each, axis=1, weights=widths.elements) for each in (features[3], features[4] > 0))
    return np.column_stack([np.ones_like(outputs), outputs, ragged])
