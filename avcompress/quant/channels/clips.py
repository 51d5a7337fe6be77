"""Histograms of |x| by channel, and the clips that follow: small ones, for every channel of many tensors at once.

A histogram has `BINS` equal bins over 0 .. 2**k with 2**k just above the channel's largest |x| so far; a larger range
is reached by adding neighbouring bins, so that the result depends on no order and does not grow with the images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avcompress.spec import Array

BINS = 1024
_LOG2_BINS = 10
_LEVELS = 127
POSITIONS = 4096
"""Counted of each channel and image, at most: evenly spread over the map. The largest |x| is that of all."""
_SHRINKS = np.geomspace(1.0, 1 / 32, 72)
_LOWEST = -100


class ChannelTally:
    """The histograms of one tensor's channels."""

    def __init__(self, channels: int) -> None:
        self.amax = np.zeros(channels, np.float32)
        self._counts = np.zeros((channels, BINS), np.int64)
        self._exponents = np.full(channels, _LOWEST)

    def add_(self, values: Array) -> None:
        """Count the finite values of one image: (C, positions)."""
        magnitudes = np.abs(values, dtype=np.float32)
        self.amax = np.maximum(self.amax, magnitudes.max(axis=1))
        self._widen_(np.maximum(np.frexp(self.amax)[1], _LOWEST))
        count = magnitudes.shape[1]
        if count > POSITIONS:
            magnitudes = magnitudes[:, np.arange(POSITIONS) * count // POSITIONS]
        # A power of two: the product is exact, so is the truncation.
        bins = (magnitudes * np.exp2(_LOG2_BINS - self._exponents)[:, None]).astype(np.int64)
        bins += BINS * np.arange(len(bins))[:, None]
        self._counts += np.bincount(bins.reshape(-1), minlength=self._counts.size).reshape(self._counts.shape)

    def _widen_(self, exponents: NDArray[np.int64]) -> None:
        steps = np.minimum(exponents - self._exponents, _LOG2_BINS)
        for step in np.unique(steps[steps > 0]):
            rows = steps == step
            wide = np.zeros((int(rows.sum()), BINS), np.int64)
            wide[:, : BINS >> step] = self._counts[rows].reshape(len(wide), BINS >> step, -1).sum(axis=2)
            self._counts[rows] = wide
        self._exponents = np.maximum(self._exponents, exponents)

    def clips(self) -> NDArray[np.float64]:
        """The clip of every channel with the least squared error in symmetric INT8, (C,); 0 for channels of zeros."""
        amax = self.amax.astype(np.float64)
        best: NDArray[np.float64] = amax.copy()
        least = np.full(len(amax), np.inf)
        centres = (np.arange(BINS) + 0.5) * np.exp2(self._exponents - _LOG2_BINS)[:, None]
        safe = np.where(amax > 0, amax, 1.0)
        for shrink in _SHRINKS:
            step = (safe * shrink / _LEVELS)[:, None]
            rounded = np.minimum(np.rint(centres / step), _LEVELS) * step
            error = (self._counts * (centres - rounded) ** 2).sum(axis=1)
            better = error < least
            best[better], least[better] = amax[better] * shrink, error[better]
        return best
