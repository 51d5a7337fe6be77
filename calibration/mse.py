"""The range with the least expected squared error of rounding and clipping, from a histogram in closed form.

Values are spread evenly within their bin. Then the sums of 1, x and x**2 up to any point are known in closed form, and
the error over the values that round to level v is S2 - 2 v S1 + v**2 S0: no value is looked at again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avcompress.recipe import Ptq
from avcompress.spec import TensorRange
from calibration.histogram import Histogram, Moments, moments, moments_of_magnitudes

INT8_LEVELS = np.arange(128, dtype=np.float64)
"""The levels of symmetric INT8 on one side of zero, in steps."""

FP8_LEVELS = np.array(
    [
        *(m * 2.0**-9 for m in range(8)),
        *((1 + m / 8) * 2.0**e for e in range(-6, 9) for m in range(8) if (e, m) != (8, 7)),
    ]
)
"""The levels of FP8 E4M3 from zero on; the last is 448. Source: Micikevicius et al., arXiv:2209.05433, table 1."""

_ASYMMETRIC_STEPS = 255
_SHRINKS = np.geomspace(1.0, 1 / 64, 160)
_PARTS = 17
_COARSE, _FINE, _REFINEMENTS = 16, 9, 3
_RATIO = 64 ** (1 / (_COARSE - 1))  # of neighbouring clips in the coarse grid


def symmetric_clip(hist: Histogram, levels: NDArray[np.float64] = INT8_LEVELS) -> float:
    """The clip with the least squared error, from a coarse geometric search and a fine one around its best."""
    if hist.amax == 0:
        return 0.0
    coarse = hist.amax * _SHRINKS
    best = int(np.argmin(squared_error(hist, coarse, levels)))
    low, high = coarse[min(best + 1, len(coarse) - 1)], coarse[max(best - 1, 0)]
    fine = np.linspace(high, low, _PARTS)
    return float(fine[np.argmin(squared_error(hist, fine, levels))])


def squared_error(
    hist: Histogram, clips: NDArray[np.float64], levels: NDArray[np.float64] = INT8_LEVELS
) -> NDArray[np.float64]:
    """The sum of (x - fake_quantize(x))**2 over all values, for symmetric levels of which the last is at the clip.

    Args:
        hist: of the values x.
        clips: (K,), > 0.
        levels: those from zero on, ascending, in steps.

    Returns: (K,).
    """
    scale = np.asarray(clips, np.float64)[:, None] / levels[-1]
    return _error(moments_of_magnitudes(hist), levels * scale)


def _error(values: Moments, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The squared error of rounding to the nearest of (K, N) ascending levels: (K,)."""
    ends = np.concatenate([(levels[:, :-1] + levels[:, 1:]) / 2, np.full((len(levels), 1), np.inf)], axis=1)
    s0, s1, s2 = (np.diff(s, axis=1, prepend=0.0) for s in values.below(ends))
    error: NDArray[np.float64] = (s2 - 2 * levels * s1 + levels * levels * s0).sum(axis=1)
    return error


def expected_error(hist: Histogram, values: TensorRange, settings: Ptq) -> float:
    """The sum of (x - fake_quantize(x))**2 over all values of one tensor, quantized to a range as the settings say."""
    (low,), (high,) = values.low, values.high
    if settings.format == "fp8" or settings.activations != "asymmetric":
        levels = FP8_LEVELS if settings.format == "fp8" else INT8_LEVELS
        error = squared_error(hist, np.array([max(high, -low)]), levels)
    else:
        error = squared_error_between(moments(hist), np.array([min(low, 0.0)]), np.array([max(high, 0.0)]))
    return float(error[0])


def asymmetric_clips(hist: Histogram) -> tuple[float, float]:
    """The low and the high clip, around zero, with the least squared error on 256 levels one of which is zero.

    A coarse grid over both, then finer and finer ones around the best.
    """
    lowest, highest = min(hist.low, 0.0), max(hist.high, 0.0)
    if lowest == highest:
        return lowest, highest
    values = moments(hist)
    factors = np.geomspace(1.0, 1 / 64, _COARSE)
    best = (lowest, highest)
    for finer in range(_REFINEMENTS + 1):
        lows = np.unique(np.maximum(best[0] * factors, lowest))
        highs = np.unique(np.minimum(best[1] * factors, highest))
        pairs = np.stack(np.meshgrid(lows, highs, indexing="ij"), axis=-1).reshape(-1, 2)
        low, high = pairs[np.argmin(squared_error_between(values, pairs[:, 0], pairs[:, 1]))]
        best = float(low), float(high)
        factors = _RATIO ** (np.linspace(-1, 1, _FINE) / 4**finer)
    return best


def squared_error_between(
    values: Moments, lows: NDArray[np.float64], highs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The sum of (x - fake_quantize(x))**2 on 256 levels between low and high, shifted so that one of them is zero.

    Args:
        values: moments of the values x.
        lows: (K,), at most 0.
        highs: (K,), at least 0 and above the lows.

    Returns: (K,).
    """
    scale = (highs - lows) / _ASYMMETRIC_STEPS
    zero_point = np.clip(np.rint(-lows / scale), 0, _ASYMMETRIC_STEPS)
    return _error(values, (np.arange(_ASYMMETRIC_STEPS + 1) - zero_point[:, None]) * scale[:, None])
