"""Factors of a layer's weight that make its output's error least, instead of its weight's.

With the covariance H of the layer's inputs, the error to be made least is trace((W - V) H (W - V)'), V what the factors
stand for. For `svd` the solution is closed: the outputs are projected onto their principal components. V is multilinear
in the factors of the others: each in turn is improved by conjugate gradients, all others fixed, which never makes
it worse. They start from a decomposition of the weight whose input channels are scaled by their size.

Source: the closed solution is that of Zhang, Zou, He, Sun, arXiv:1505.06798, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avcompress.lowrank.decompose import decomposed
from avcompress.lowrank.forms import FORMS, Floats, Ranks, composed, projected
from avcompress.recipe_lowrank import Method

Factors = tuple[Floats, ...]
FINE = 2
QUICK = 1
"""Sweeps over the factors: as near as it is worth, or enough to tell ranks apart."""
_WORK = 6e10
"""Multiply-accumulates of all sweeps together, at most: wide layers get fewer, or none."""
_STEPS = 6
"""Of conjugate gradients, a factor and sweep."""
_ENOUGH = 1e-3
"""A sweep that improves the error by less, of itself, is the last."""
_BALANCING = 10
"""Rounds of scaling components."""
_DEAD = 2.0**-10
"""Of the largest channel's size: less counts as this much, so that a channel that was silent keeps its weights."""


@dataclass(frozen=True, eq=False)
class Aim:
    """What factors shall come near to.

    Attributes:
        weight: (M, C, kh, kw).
        spread: (K, K), covariance of the inputs; None: the weights themselves count.
    """

    weight: Floats
    spread: Floats | None = None

    def times_spread(self, weight: Floats) -> Floats:
        """A weight, or a difference of two, times the covariance."""
        if self.spread is None:
            return weight
        product: Floats = (weight.reshape(len(weight), -1) @ self.spread).reshape(weight.shape)
        return product

    def size(self, weight: Floats) -> float:
        """The variance of the output of this weight, summed over channels, or the sum of its squares."""
        return max(float(np.vdot(weight.astype(np.float64), self.times_spread(weight))), 0.0)

    def error(self, weight: Floats) -> float:
        """What this weight lacks, in parts of the whole; 0 where there is nothing to lack."""
        whole = self.size(self.weight)
        return self.size(self.weight - weight) / whole if whole > 0 else 0.0


def fitted(aim: Aim, method: Method, ranks: Ranks, sweeps: int = FINE) -> Factors:
    """The factors of a method and rank that come nearest, or as near as so many sweeps lead; see `decomposed`."""
    if aim.spread is None:
        return _balanced(method, decomposed(method, aim.weight, ranks))
    if method == "svd":
        return _balanced(method, _principal(aim, ranks[0]))
    scale = _channel_sizes(aim)
    start = decomposed(method, aim.weight * scale[:, None, None], ranks)
    first = start[0] / scale.reshape(-1, *[1] * (len(FORMS[method][0].axes) - 2))
    return _balanced(method, _swept(aim, method, (first, *start[1:]), sweeps))


def _channel_sizes(aim: Aim) -> Floats:
    """Root of the variance of each input channel, (C,)."""
    variances = np.maximum(np.diagonal(aim.spread), 0) if aim.spread is not None else np.ones(1)
    sizes = np.sqrt(variances.reshape(aim.weight.shape[1], -1).mean(1))
    return np.maximum(sizes, sizes.max() * _DEAD).astype(np.float32) if sizes.any() else np.ones_like(sizes)


def _principal(aim: Aim, rank: int) -> Factors:
    """The weights' outputs, projected onto the principal components of the output."""
    weight = aim.weight.reshape(len(aim.weight), -1).astype(np.float64)
    covariance = aim.times_spread(aim.weight).reshape(weight.shape) @ weight.T
    _, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    last = vectors[:, ::-1][:, :rank]
    first = (last.T @ weight).reshape(rank, *aim.weight.shape[1:])
    return first.astype(np.float32), last.astype(np.float32)


def _swept(aim: Aim, method: Method, factors: Factors, sweeps: int) -> Factors:
    each = len(factors) * (_STEPS + 1) * len(aim.weight) * (aim.weight.size // len(aim.weight)) ** 2
    error = aim.error(composed(method, factors))
    for _ in range(min(sweeps, int(_WORK / each))):
        for index in reversed(range(len(factors))):
            factors = _improved(aim, method, factors, index)
        before, error = error, aim.error(composed(method, factors))
        if error > before * (1 - _ENOUGH):
            break
    return factors


def _improved(aim: Aim, method: Method, factors: Factors, index: int) -> Factors:
    """One factor nearer to its best by conjugate gradients on the normal equations."""

    def with_factor(factor: Floats) -> Factors:
        return (*factors[:index], factor, *factors[index + 1 :])

    def normal(factor: Floats) -> Floats:
        return projected(method, factors, index, aim.times_spread(composed(method, with_factor(factor))))

    factor = factors[index]
    residual = projected(method, factors, index, aim.times_spread(aim.weight - composed(method, factors)))
    direction, power = residual, _dot(residual, residual)
    for _ in range(_STEPS):
        image = normal(direction)
        curvature = _dot(direction, image)
        if not curvature > 0:
            break
        step = np.float32(power / curvature)
        factor, residual = factor + step * direction, residual - step * image
        new = _dot(residual, residual)
        direction, power = residual + np.float32(new / power) * direction, new
    return with_factor(factor)


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.vdot(a.astype(np.float64), b))


def _balanced(method: Method, factors: Factors) -> Factors:
    """The same product, each component of a rank of one norm in all the factors that have it.

    One learning rate then suits all factors, and the channels between two of them are of like sizes for INT8.
    """
    axes = [factor.axes for factor in FORMS[method]]
    made = list(factors)
    # One rank of tucker2's core upsets the other, less and less.
    for letter in _BALANCING * sorted(set("".join(axes)) - set("mcij")):
        holders = [index for index, letters in enumerate(axes) if letter in letters]
        norms = [_norms(made[index], axes[index].index(letter)) for index in holders]
        middle = np.exp(np.mean([np.log(norm) for norm in norms], axis=0))
        for index, norm in zip(holders, norms, strict=True):
            shape = [-1 if other == letter else 1 for other in axes[index]]
            made[index] = (made[index] * (middle / norm).reshape(shape)).astype(np.float32)
    return tuple(made)


def _norms(factor: Floats, axis: int) -> NDArray[np.float64]:
    """Along an axis; 1 where there is nothing."""
    norms = np.linalg.norm(np.moveaxis(factor.astype(np.float64), axis, 0).reshape(factor.shape[axis], -1), axis=1)
    return np.where(norms > 0, norms, 1.0)
