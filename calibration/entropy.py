"""The range whose quantized distribution diverges least from the float one, as TensorRT's entropy calibration has it.

Source: Migacz, "8-bit Inference with TensorRT", GTC 2017, S7310; pytorch-quantization, calib/histogram.py: the bin of
zeros is given its neighbour's count, and of several best thresholds the largest is taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import BINS, Histogram, magnitudes

_TOGETHER = 2  # 1024 to 2048 bins below the largest |x|, which TensorRT cuts into 2048
_FEWEST = 8  # values a bin, on average: with fewer the divergence measures chance, and any threshold may come out


def entropy_clip(hist: Histogram, levels: int = 128) -> float:
    """The threshold on |x| with the least Kullback-Leibler divergence between all values and their quantized ones.

    Args:
        hist: of the values x.
        levels: of |x|: 128 for symmetric INT8, 256 where zero is the lowest level.

    Returns the largest |x| where there are too few values to tell.
    """
    together = _TOGETHER
    while hist.amax / (hist.width * together) * _FEWEST > hist.counts.sum() and together < BINS:
        together *= 2
    counts = magnitudes(hist).reshape(-1, together).sum(axis=1).astype(np.float64)
    width = hist.width * together
    counts = counts[: int(hist.amax / width) + 1]
    counts[0] = counts[1] if len(counts) > 1 else counts[0]
    if len(counts) <= levels:
        return hist.amax
    bins = np.arange(levels, len(counts) + 1)
    found = divergences(counts, bins, levels)
    best = len(found) - 1 - int(np.argmin(found[::-1]))
    return min(float(bins[best] * width), hist.amax)


def divergences(counts: NDArray[np.float64], bins: NDArray[np.int64], levels: int) -> NDArray[np.float64]:
    """The divergence KL(P || Q) for every number of bins that is kept.

    P are the kept bins, with all that lies beyond added to the last of them. Q are the kept bins quantized: those of
    one level share its count evenly, but for empty ones, which stay empty.

    Args:
        counts: (N,), at least one of the first `levels` above zero.
        bins: (K,), each `levels` to N.
        levels: that the kept bins are cut into.

    Returns: (K,), infinite where only values beyond would fill the last bin, or nothing is kept.
    """
    edges = -(-bins[:, None] * np.arange(levels + 1) // levels)  # of the levels: the first bin at or above i / levels
    kept = _sums(counts)
    inside, filled = np.diff(kept[edges], axis=1), np.diff(_sums(counts > 0)[edges], axis=1)
    beyond, last = kept[-1] - kept[bins], counts[bins - 1]
    shared = np.log(np.divide(inside, filled, out=np.ones_like(inside), where=filled > 0))
    own = _sums(_x_log_x(counts))[bins - 1] + _x_log_x(last + beyond)
    crossed = (inside * shared).sum(axis=1) + beyond * shared[:, -1]
    whole = np.maximum(kept[bins], 1.0)
    found = (own - crossed) / kept[-1] - np.log(kept[-1]) + np.log(whole)
    return np.where(((last == 0) & (beyond > 0)) | (kept[bins] == 0), np.inf, found)


def _sums(values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = x * np.log(np.maximum(x, 1.0))
    return result
