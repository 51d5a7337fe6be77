"""Histograms of streamed values whose range grows by merging, bit for bit the same in any order.

A histogram holds `BINS` equal bins on each side of zero, over -2**k .. 2**k where 2**k is the power of two just above
the largest |x| so far. A value belongs to bin trunc(x / width): dividing by a power of two is exact in float32, so is
the truncation, and a larger range is reached by adding neighbouring bins, which is exact too. So the result depends
neither on the order of the images nor on how they were split, and its size does not grow with their number.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from avcompress.spec import Array, DataError

BINS = 4096
"""On each side of zero; the one in the middle, around zero, is shared."""
_LOG2_BINS = 12
LOWEST_EXPONENT = -100 - _LOG2_BINS
"""Of a bin's width: below it the factor 2**-exponent would leave float32."""
HIGHEST_EXPONENT = 128 - _LOG2_BINS
"""Of a bin's width: float32 ends there."""
_CHUNK = 1 << 19  # values counted at a time: OpenCV's float32 counts stay exact, and the codes stay in the cache
_FLOATS = 1 << 16  # values scaled at a time
_FEW = 1 << 14  # below it np.bincount is the faster one


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often each value occurred.

    Attributes:
        counts: (2 * BINS - 1,), int64; bin BINS - 1 + i counts the x with trunc(x / 2**exponent) == i.
        exponent: log2 of the width of a bin; the one in the middle is twice as wide.
        low, high: the smallest and the largest value, exact.
    """

    counts: NDArray[np.int64]
    exponent: int
    low: float
    high: float

    @property
    def amax(self) -> float:
        """The largest |x|."""
        return max(self.high, -self.low)

    @property
    def width(self) -> float:
        """Of a bin."""
        return float(2.0**self.exponent)


class Scratch:
    """The arrays that counting works in; for one thread at a time."""

    def __init__(self) -> None:
        self.floats = np.empty(_FLOATS, np.float32)
        self.codes = np.empty(_CHUNK, np.int16)


class Tally:
    """A histogram while it is being counted."""

    def __init__(self) -> None:
        # Whole numbers in float64: exact up to 2**53, and three times as fast to add float32 counts to as int64.
        self._counts = np.zeros(2 * BINS - 1, np.float64)
        self._exponent = LOWEST_EXPONENT
        self._low, self._high = np.inf, -np.inf

    def add_(self, values: Array, scratch: Scratch, where: str = "values") -> tuple[float, float]:
        """Count the values of one array; returns the smallest and the largest of them.

        Args:
            values: float32, any shape, at least one element.
            scratch: overwritten.
            where: what the array is, for the error.

        Raises DataError when a value is NaN or infinite.
        """
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        low, high = float(flat.min()) + 0.0, float(flat.max()) + 0.0  # -0.0 becomes 0.0: equal values, equal bytes
        if not np.isfinite(low) or not np.isfinite(high):
            raise DataError(
                f"{where}: expected finite values, got NaN or infinity; check the image and the network's weights"
            )
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._widen_(_exponent(max(high, -low)))
        factor = np.float32(2.0**-self._exponent)
        for start in range(0, flat.size, _CHUNK):
            self._counts += _counted(flat[start : start + _CHUNK], factor, scratch)
        return low, high

    def _widen_(self, exponent: int) -> None:
        if exponent > self._exponent:
            self._counts = _widened(self._counts, exponent - self._exponent)
            self._exponent = exponent

    @property
    def histogram(self) -> Histogram:
        """Of all values so far, at least one."""
        return Histogram(self._counts.astype(np.int64), self._exponent, self._low, self._high)


def histogram(values: Array, where: str = "values") -> Histogram:
    """Count the values of one array; as Tally.add_ takes and refuses them."""
    tally = Tally()
    tally.add_(values, Scratch(), where)
    return tally.histogram


def merge(a: Histogram, b: Histogram) -> Histogram:
    """The histogram of both sets of values; associative and commutative, bit for bit."""
    exponent = max(a.exponent, b.exponent)
    counts = _widened(a.counts, exponent - a.exponent) + _widened(b.counts, exponent - b.exponent)
    return Histogram(counts, exponent, min(a.low, b.low), max(a.high, b.high))


def _exponent(amax: float) -> int:
    """Of the bins' width, so that amax has a bin."""
    return max(int(np.frexp(amax)[1]) - _LOG2_BINS, LOWEST_EXPONENT) if amax else LOWEST_EXPONENT


def _counted(part: NDArray[np.float32], factor: np.float32, scratch: Scratch) -> Array:
    """The counts of up to _CHUNK values by bin, any dtype."""
    codes = scratch.codes[: part.size]
    for start in range(0, part.size, _FLOATS):
        scaled = scratch.floats[: min(_FLOATS, part.size - start)]
        np.multiply(part[start : start + _FLOATS], factor, out=scaled)
        np.copyto(codes[start : start + _FLOATS], scaled, casting="unsafe")  # truncates
    np.add(codes, BINS - 1, out=codes)
    if part.size < _FEW:
        return np.bincount(codes, minlength=2 * BINS - 1)
    # OpenCV counts uint16 three times as fast as np.bincount.
    counted = cv2.calcHist([codes.view(np.uint16)[None]], [0], None, [2 * BINS - 1], [0, 2 * BINS - 1])
    return np.asarray(counted).reshape(-1)


def _widened(counts: Array, steps: int) -> Array:
    """The counts in bins 2**steps as wide: bin i goes to trunc(i / 2**steps)."""
    if steps == 0:
        return counts
    together = 1 << min(steps, _LOG2_BINS)
    middle = BINS - 1
    new = np.zeros_like(counts)
    kept = BINS // together
    # One side of zero after the other, outwards; the middle bin opens each, and is counted once.
    for side, sign in ((counts[middle:], 1), (np.concatenate([[0], counts[middle - 1 :: -1]]), -1)):
        summed = side.reshape(-1, together).sum(axis=1)
        new[middle + sign * np.arange(kept)] += summed
    return new


# --- views


def magnitudes(hist: Histogram) -> NDArray[np.int64]:
    """How often each |x| occurred: (BINS,); bin i counts the x with i <= |x| / width < i + 1."""
    counts: NDArray[np.int64] = hist.counts[BINS - 1 :].copy()
    counts[1:] += hist.counts[BINS - 2 :: -1]
    return counts


def signed(hist: Histogram) -> NDArray[np.float64]:
    """The counts over 2 * BINS bins of equal width, the first one from -2**k on.

    The bin around zero is halved, or goes to the side on which all values are.
    """
    middle = float(hist.counts[BINS - 1])
    left = 0.0 if hist.low >= 0 else middle if hist.high <= 0 else middle / 2
    counts = np.empty(2 * BINS, np.float64)
    counts[: BINS - 1], counts[BINS + 1 :] = hist.counts[: BINS - 1], hist.counts[BINS:]
    counts[BINS - 1], counts[BINS] = left, middle - left
    return counts


class Moments:
    """Sums of 1, x and x**2 over all values below any point, in closed form: values are spread evenly in their bin.

    Args:
        counts: (N,), of bins of equal width.
        first: the left edge of the first bin, in widths.
        width: of a bin.
    """

    def __init__(self, counts: Array, first: int, width: float) -> None:
        self._counts = counts.astype(np.float64)
        self._first, self._width = first, width
        left = np.arange(first, first + len(counts), dtype=np.float64)
        moments = (self._counts, self._counts * (left + 0.5), self._counts * (left * left + left + 1 / 3))
        self._sums = tuple(np.concatenate([[0.0], np.cumsum(moment)]) for moment in moments)

    def below(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The number, the sum and the sum of squares of the values below x; each of x's shape."""
        position = np.clip(x / self._width - self._first, 0, len(self._counts))
        index = np.minimum(position.astype(np.int64), len(self._counts) - 1)
        i, t = (index + self._first).astype(np.float64), position - index
        count = self._counts[index]
        s0, s1, s2 = (sums[index] for sums in self._sums)
        width = self._width
        return (
            s0 + count * t,
            (s1 + count * (i * t + t * t / 2)) * width,
            (s2 + count * (i * i * t + i * t * t + t**3 / 3)) * width**2,
        )

    def quantile(self, share: float) -> float:
        """The point below which this share of the values lies, 0-1."""
        below = self._sums[0]
        wanted = share * below[-1]
        index = int(np.searchsorted(below, wanted, side="left"))
        if index == 0:
            return self._first * self._width
        inside = (wanted - below[index - 1]) / self._counts[index - 1]
        return float((self._first + index - 1 + inside) * self._width)


def moments_of_magnitudes(hist: Histogram) -> Moments:
    """Of |x|."""
    return Moments(magnitudes(hist), 0, hist.width)


def moments(hist: Histogram) -> Moments:
    """Of x."""
    return Moments(signed(hist), -BINS, hist.width)
