"""From streamed values to a quantization range: histograms of |x|, and the symmetric int8 range that follows from one.

A histogram holds `BINS` equal bins over [0, 2**k) where 2**k is the power of two just above the largest |x| so far.
Binning by a power of two is exact in float32, and a larger range is reached by adding neighbouring bins, which is exact
too: the result depends neither on the order of the images nor on how they were split, and its size does not grow with
their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from avcompress.spec import Array, DataError, QuantParams, TensorRange

BINS = 4096
_LOG2_BINS = 12
_LOWEST_EXPONENT = -100 - _LOG2_BINS  # below it the factor 2**-exponent would leave float32
_CHUNK = 1 << 18  # elements at a time: the scratch arrays stay in the cache, and OpenCV's float32 counts stay exact
_QMAX = 127
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often each |x| occurred.

    Attributes:
        counts: (BINS,), int64; bin i counts the values with i <= |x| / 2**exponent < i + 1.
        exponent: log2 of the width of a bin.
        amax: the largest |x|.
    """

    counts: NDArray[np.int64]
    exponent: int
    amax: float


def histogram(values: Array, min_exponent: int = _LOWEST_EXPONENT, where: str = "values") -> Histogram:
    """Count the |x| of one array.

    Args:
        values: float32, any shape, at least one element.
        min_exponent: lower bound of the bins' width; pass that of a histogram it will be merged into.
        where: what the array is, for the error.

    Raises DataError when a value is NaN or infinite.
    """
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    amax = max(float(flat.max()), -float(flat.min()))
    if not np.isfinite(amax):
        raise DataError(
            f"{where}: expected finite values, got NaN or infinity; check the image and the network's weights"
        )
    own_exponent = int(np.frexp(amax)[1]) - _LOG2_BINS if amax else _LOWEST_EXPONENT
    exponent = max(own_exponent, min_exponent, _LOWEST_EXPONENT)
    factor = np.float32(2.0**-exponent)
    counts = np.zeros(BINS, np.int64)
    scaled = np.empty(min(flat.size, _CHUNK), np.float32)
    codes = np.empty(scaled.size, np.uint16)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        np.multiply(part, factor, out=scaled[: part.size])
        np.abs(scaled, out=scaled)
        np.copyto(codes, scaled, casting="unsafe")
        # OpenCV counts uint16 four times as fast as np.bincount.
        part_counts = cv2.calcHist([codes[None, : part.size]], [0], None, [BINS], [0, BINS])
        counts += part_counts.reshape(-1).astype(np.int64)
    return Histogram(counts, exponent, amax)


def merge(a: Histogram, b: Histogram) -> Histogram:
    """The histogram of both sets of values; associative and commutative, bit for bit."""
    exponent = max(a.exponent, b.exponent)
    return Histogram(_widened(a, exponent) + _widened(b, exponent), exponent, max(a.amax, b.amax))


def _widened(hist: Histogram, exponent: int) -> NDArray[np.int64]:
    """The counts in bins of width 2**exponent, not below the histogram's own."""
    steps = exponent - hist.exponent
    if steps == 0:
        return hist.counts
    together = 1 << min(steps, _LOG2_BINS)
    counts = np.zeros_like(hist.counts)
    counts[: BINS // together] = hist.counts.reshape(-1, together).sum(axis=1)
    return counts


def range_from(hist: Histogram, method: Literal["mse", "minmax"]) -> TensorRange:
    """The symmetric range of one tensor: all values (minmax), or the least expected squared int8 error (mse)."""
    if hist.amax == 0:
        return TensorRange((-1.0,), (1.0,))  # any scale represents zeros exactly
    match method:
        case "minmax":
            clip = hist.amax
        case "mse":
            clip = _best_clip(hist)
    return TensorRange((-clip,), (clip,))


def _best_clip(hist: Histogram) -> float:
    """The clip with the least squared error, from a coarse geometric search and a fine one around its best."""
    coarse = hist.amax * np.geomspace(1.0, 1 / 64, 160)
    best = int(np.argmin(squared_error(hist, coarse)))
    low, high = coarse[min(best + 1, len(coarse) - 1)], coarse[max(best - 1, 0)]
    fine = np.linspace(high, low, 17)
    return float(fine[np.argmin(squared_error(hist, fine))])


def squared_error(hist: Histogram, clips: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of (x - fake_quantize(x))**2 with scale = clip / 127, clipped to +-clip.

    Values are spread evenly within their bin. Then the sums of 1, |x| and |x|**2 up to any point are known in closed
    form, and the error over the values that round to level q is S2 - 2 q S1 + q**2 S0.

    Args:
        hist: of the values x.
        clips: (K,), > 0.

    Returns: (K,).
    """
    scale = np.asarray(clips, np.float64)[:, None] / _QMAX
    level = np.arange(_QMAX + 1)
    ends = np.concatenate([(level[:-1] + 0.5) * scale, np.full((len(scale), 1), np.inf)], axis=1)
    s0, s1, s2 = (np.diff(s, axis=1, prepend=0.0) for s in _sums_up_to(hist, ends))
    q = level * scale
    error: NDArray[np.float64] = (s2 - 2 * q * s1 + q * q * s0).sum(axis=1)
    return error


def _sums_up_to(hist: Histogram, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """The number, the sum and the sum of squares of the values below x; each of x's shape."""
    width = 2.0**hist.exponent
    position = np.minimum(x / width, BINS)
    index = np.minimum(position.astype(np.int64), BINS - 1)
    i, t = index.astype(np.float64), position - index
    count = hist.counts.astype(np.float64)
    left = np.arange(BINS, dtype=np.float64)
    moments = (count, count * (left + 0.5), count * (left * left + left + 1 / 3))
    parts = (t, i * t + t * t / 2, i * i * t + i * t * t + t**3 / 3)
    return tuple(
        (np.concatenate([[0.0], np.cumsum(moment)])[index] + count[index] * part) * width**order
        for order, (moment, part) in enumerate(zip(moments, parts, strict=True))
    )


def channel_range(values: Array, axis: int) -> TensorRange:
    """The symmetric range of every channel along `axis`; a channel of zeros gets -1 .. 1.

    Args:
        values: float, finite.
        axis: the channels'.
    """
    others = tuple(i for i in range(values.ndim) if i != axis)
    amax = np.abs(values).max(axis=others).astype(np.float64)
    amax[amax == 0] = 1.0
    return TensorRange(tuple((-amax).tolist()), tuple(amax.tolist()), axis)


def symmetric_int8(values: TensorRange) -> QuantParams:
    """Zero point 0, the largest magnitude on 127; the scales are float32 numbers, as a graph stores them."""
    amax = np.maximum(np.abs(values.low), np.abs(values.high))
    scale = np.maximum(amax / _QMAX, _SMALLEST_SCALE).astype(np.float32)
    return QuantParams(tuple(scale.tolist()), (0,) * len(scale), "int8", values.axis)
