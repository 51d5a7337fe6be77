"""Decompositions of a weight alone: nearest in the sum of squares, or as near as alternating least squares lead.

Our own loops for Tucker and CP: tensorly's, which the tests hold them against, take 13 times as long for a CP of rank
64 of a weight of 128x64x3x3 (1.3 s of one processor), twice as long for its Tucker, and come no nearer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from avcompress.lowrank.forms import Floats, Ranks, check_ranks
from avcompress.recipe_lowrank import Method

_Exact = NDArray[np.float64]
_SWEEPS = 30
_ENOUGH = 1e-4
"""A sweep that improves the error by less, of itself, is the last."""
_RIDGE = 1e-8
"""Of the mean diagonal: components of CP that grow alike make its normal equations singular."""


def decomposed(method: Method, weight: Floats, ranks: Ranks) -> tuple[Floats, ...]:
    """The factors whose product comes near to a weight (M, C, kh, kw); the same input gives the same factors.

    Raises RecipeError for a rank that is larger than the weight allows, or not above zero.
    """
    outputs, inputs, rows, columns = weight.shape
    check_ranks("factorize", method, (outputs, inputs, rows, columns), ranks)
    exact = weight.astype(np.float64)
    match method:
        case "svd":
            factors = _svd(exact, ranks[0])
        case "spatial_svd":
            factors = _spatial_svd(exact, ranks[0])
        case "tucker2":
            factors = _tucker2(exact, *ranks)
        case "cp":
            factors = _cp(exact, ranks[0])
    return tuple(np.ascontiguousarray(factor, np.float32) for factor in factors)


def _halves(matrix: _Exact, rank: int) -> tuple[_Exact, _Exact]:
    """The nearest product of (n, rank) and (rank, k), the singular values in the second."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank], values[:rank, None] * right[:rank]


def _svd(weight: _Exact, rank: int) -> tuple[_Exact, ...]:
    last, first = _halves(weight.reshape(len(weight), -1), rank)
    return first.reshape(rank, *weight.shape[1:]), last


def _spatial_svd(weight: _Exact, rank: int) -> tuple[_Exact, ...]:
    outputs, inputs, rows, columns = weight.shape
    last, first = _halves(weight.transpose(0, 3, 1, 2).reshape(outputs * columns, inputs * rows), rank)
    return first.reshape(rank, inputs, rows), last.reshape(outputs, columns, rank).transpose(0, 2, 1)


def _tucker2(weight: _Exact, inputs: int, outputs: int) -> tuple[_Exact, ...]:
    """Higher-order orthogonal iteration over the modes of outputs and inputs, from the higher-order SVD."""
    first = _principal(weight.transpose(1, 0, 2, 3), inputs)
    kept = 0.0
    for _ in range(_SWEEPS):
        narrow = np.einsum("cs,mcij->msij", first, weight, optimize=True)
        last = _principal(narrow, outputs)
        first = _principal(np.einsum("mt,mcij->ctij", last, weight, optimize=True), inputs)
        core = np.einsum("mt,cs,mcij->tsij", last, first, weight, optimize=True)
        before, kept = kept, float(np.square(core).sum())
        if kept - before <= _ENOUGH * max(float(np.square(weight).sum()) - kept, 0.0):
            break
    return first.T, core, last


def _principal(tensor: _Exact, rank: int) -> _Exact:
    """The leading left singular vectors of a tensor unfolded along its first axis, (n, rank)."""
    matrix = tensor.reshape(len(tensor), -1)
    _, vectors = np.linalg.eigh(matrix @ matrix.T)
    return np.ascontiguousarray(vectors[:, ::-1][:, :rank])


def _cp(weight: _Exact, rank: int) -> tuple[_Exact, ...]:
    """Alternating least squares, from the singular vectors of each mode, filled up by chance where it has too few.

    The products with the weight are shared: for all modes but the outputs' it is multiplied by their factor only once.
    Source: Kolda, Bader, Tensor Decompositions and Applications, SIAM Review 51 (2009), section 3.4.
    """
    outputs, inputs, rows, columns = weight.shape
    matrix, whole = weight.reshape(outputs, -1), float(np.square(weight).sum())
    random = np.random.default_rng(0)
    m, c, i, j = (_start(np.moveaxis(weight, axis, 0), rank, random) for axis in range(4))
    error = whole
    for _ in range(_SWEEPS):
        there = (m.T @ matrix).reshape(rank, inputs, rows, columns)
        c = _solved(np.einsum("rcij,ir,jr->cr", there, i, j, optimize=True), (m, i, j))
        i = _solved(np.einsum("rcij,cr,jr->ir", there, c, j, optimize=True), (m, c, j))
        j = _solved(np.einsum("rcij,cr,ir->jr", there, c, i, optimize=True), (m, c, i))
        c, i, j = (_normalized(factor) for factor in (c, i, j))
        spread = np.einsum("cr,ir,jr->cijr", c, i, j, optimize=True).reshape(-1, rank)
        m = _solved(matrix @ spread, (c, i, j))
        before, error = error, float(np.square(matrix - m @ spread.T).sum())
        if before - error <= _ENOUGH * error:
            break
    return c.T, i.T, j.T, m


def _start(tensor: _Exact, rank: int, random: np.random.Generator) -> _Exact:
    vectors = _principal(tensor, rank)
    missing = random.standard_normal((len(tensor), rank - vectors.shape[1]))
    return np.concatenate([vectors, missing], axis=1)


def _solved(product: _Exact, others: Sequence[_Exact]) -> _Exact:
    """The factor that fits best, (n, rank), given the weight times the others."""
    gram = np.prod([other.T @ other for other in others], axis=0)
    ridge = _RIDGE * float(np.trace(gram)) / len(gram) + np.finfo(np.float64).tiny
    solution: _Exact = np.linalg.solve(gram + ridge * np.eye(len(gram)), product.T).T
    return solution


def _normalized(factor: _Exact) -> _Exact:
    norms = np.linalg.norm(factor, axis=0)
    normalized: _Exact = factor / np.where(norms > 0, norms, 1.0)
    return normalized
