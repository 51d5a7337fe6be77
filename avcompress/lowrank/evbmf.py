"""The rank of a matrix under noise by empirical variational Bayes, in closed form.

Source: Nakajima, Sugiyama, Babacan, Tomioka, Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization, JMLR 14 (2013), theorem 2 and corollary 1; the noise by minimizing the free energy, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TAU = 2.5129
"""Over the root of L / M: where the free energy of a component changes its sign, to four digits."""
_STEPS = 512
_ROUNDS = 4
"""The free energy has several valleys: all its range is looked at, then ever more closely around the lowest."""


@dataclass(frozen=True, eq=False)
class Evbmf:
    """What is signal in a matrix.

    Attributes:
        values: (rank,), the singular values that remain, shrunk.
        noise: its variance, an entry.
    """

    values: NDArray[np.float64]
    noise: float

    @property
    def rank(self) -> int:
        """Components above the noise; 0 where all is noise."""
        return len(self.values)


def evbmf(matrix: NDArray[Any]) -> Evbmf:
    """Split a matrix, of any shape, into components and noise."""
    rows, columns = sorted(matrix.shape)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    if not values.any():
        return Evbmf(np.zeros(0), 0.0)
    noise = _noise(values, rows, columns)
    found = values[values > np.sqrt(columns * noise * _threshold(rows / columns))]
    ratio = noise / np.square(found)
    spread = 1 - (rows + columns) * ratio
    return Evbmf(found / 2 * (spread + np.sqrt(np.square(spread) - 4 * rows * columns * np.square(ratio))), noise)


def _threshold(alpha: float) -> float:
    """Of a squared singular value over columns x noise, from which a component is kept."""
    tau = _TAU * np.sqrt(alpha)
    return float((1 + tau) * (1 + alpha / tau))


def _noise(values: NDArray[np.float64], rows: int, columns: int) -> float:
    """The variance that makes the free energy least, between the bounds that the theorem gives."""
    alpha = rows / columns
    most = min(int(np.ceil(rows / (1 + alpha))) - 1, rows - 1)  # components that the theorem lets there be
    squares = np.square(values)
    rest = squares[max(most, 0) :]
    high = float(squares.sum()) / (rows * columns)
    low = max(rest[0] / (columns * _threshold(alpha)), rest.mean() / columns)
    low = max(low, high * np.finfo(np.float64).eps)
    if low >= high:
        return high
    ends = (np.log(low), np.log(high))
    for _ in range(_ROUNDS):
        grid = np.linspace(*ends, _STEPS)
        best = int(np.argmin(_free_energy(squares, np.exp(grid), columns, alpha)))
        ends = (grid[max(best - 1, 0)], grid[min(best + 1, _STEPS - 1)])
    return float(np.exp(np.mean(ends)))


def _free_energy(
    squares: NDArray[np.float64], noises: NDArray[np.float64], columns: int, alpha: float
) -> NDArray[np.float64]:
    """Of each of the noises, up to a constant and a factor."""
    x = squares / (columns * noises[:, None])
    kept = x > _threshold(alpha)
    safe = np.where(kept, x, _threshold(alpha))
    tau = (safe - (1 + alpha) + np.sqrt(np.square(safe - (1 + alpha)) - 4 * alpha)) / 2
    gain = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    energy: NDArray[np.float64] = (x - np.log(np.maximum(x, np.finfo(np.float64).tiny)) + kept * gain).sum(1)
    return energy
