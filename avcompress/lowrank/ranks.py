"""Ranks that a layer could have: multiples of the target's alignment that save multiply-accumulates, and EVBMF's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avcompress.lowrank.evbmf import evbmf
from avcompress.lowrank.forms import Extent, Floats, Ranks, Shape, factor_macs, highest, layer_macs
from avcompress.recipe_lowrank import Method

_LEVELS = 48
"""Of energy, from which the two ranks of tucker2 grow together."""


def path(method: Method, weight: Floats, extent: Extent, align: int) -> tuple[Ranks, ...]:
    """Ranks of a layer from small to large, each with fewer multiply-accumulates than the layer has.

    Those of `tucker2` grow together: both modes of the weight keep the same share of its squares.
    """
    shape = _shape(weight)
    if method == "tucker2":
        steps = _paired(weight, align)
    else:
        steps = [(rank,) for rank in range(align, highest(method, shape)[0] + 1, align)]
    whole = layer_macs(shape, extent)
    return tuple(ranks for ranks in steps if factor_macs(method, shape, ranks, extent) < whole)


def _paired(weight: Floats, align: int) -> list[Ranks]:
    limits = [limit // align * align for limit in highest("tucker2", _shape(weight))]
    if min(limits) < align:
        return []
    kept = [_kept(unfolded) for unfolded in _unfoldings(weight)]
    # Dense where little is missing: ranks differ most there.
    levels = 1 - np.geomspace(1, 1e-4, _LEVELS)
    steps = [
        tuple(
            min(_up(int(np.searchsorted(share, level)) + 1, align), limit)
            for share, limit in zip(kept, limits, strict=True)
        )
        for level in levels
    ]
    return list(dict.fromkeys([*steps, tuple(limits)]))


def _kept(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the squares that the first n components keep, for every n from 1 on."""
    squares = np.linalg.eigvalsh(matrix @ matrix.T)[::-1].clip(0)
    share: NDArray[np.float64] = np.cumsum(squares) / (squares.sum() or 1.0)
    return share


def evbmf_ranks(method: Method, weight: Floats, align: int) -> Ranks:
    """What EVBMF finds in the weight's matrix, or for tucker2 in its two unfoldings, rounded up to the alignment.

    For cp it is the larger one of tucker2's. Source of the use: Kim et al., arXiv:1511.06530, section 3.2.
    """
    exact = weight.astype(np.float64)
    outputs, inputs, rows, columns = weight.shape
    match method:
        case "svd":
            found = [evbmf(exact.reshape(outputs, -1)).rank]
        case "spatial_svd":
            found = [evbmf(exact.transpose(0, 3, 1, 2).reshape(outputs * columns, inputs * rows)).rank]
        case "tucker2":
            found = [evbmf(unfolded).rank for unfolded in _unfoldings(weight)]
        case "cp":
            found = [max(evbmf(unfolded).rank for unfolded in _unfoldings(weight))]
    limits = highest(method, _shape(weight))
    return tuple(min(_up(rank, align), limit) for rank, limit in zip(found, limits, strict=True))


def _unfoldings(weight: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By inputs, (C, M kh kw), and by outputs, (M, C kh kw)."""
    exact = weight.astype(np.float64)
    return exact.transpose(1, 0, 2, 3).reshape(weight.shape[1], -1), exact.reshape(weight.shape[0], -1)


def _up(rank: int, align: int) -> int:
    return max(-(-rank // align), 1) * align


def _shape(weight: Floats) -> Shape:
    outputs, inputs, rows, columns = weight.shape
    return outputs, inputs, rows, columns
