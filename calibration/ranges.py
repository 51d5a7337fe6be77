"""From the statistics of a tensor to its range, by the method that a recipe names."""

from __future__ import annotations

import numpy as np

from avcompress.recipe import Ptq
from avcompress.spec import Array, TensorRange
from calibration.entropy import entropy_clip
from calibration.histogram import Histogram, moments, moments_of_magnitudes
from calibration.mse import FP8_LEVELS, INT8_LEVELS, asymmetric_clips, symmetric_clip
from calibration.statistics import TensorStatistics

MOMENTUM = 0.99
"""Of the moving average: the weight of an image falls by it with each image that follows."""


def range_from(found: TensorStatistics, settings: Ptq) -> TensorRange:
    """The range of one tensor: by `settings.ranges`, around zero unless `settings.activations` is asymmetric.

    A range of zeros alone is -1 .. 1: any scale represents them exactly.
    """
    if settings.activations != "asymmetric" or settings.format == "fp8":
        high = _symmetric(found, settings)
        low = -high
    else:
        low, high = _asymmetric(found, settings)
    return TensorRange((-1.0,), (1.0,)) if low == high == 0 else TensorRange((low,), (high,))


def _symmetric(found: TensorStatistics, settings: Ptq) -> float:
    """The clip on |x|."""
    hist = found.histogram
    match settings.ranges:
        case "minmax":
            return hist.amax
        case "moving_average":
            low, high = moving_average(found.extremes)
            return max(high, -low)
        case "percentile":
            return min(moments_of_magnitudes(hist).quantile(settings.percentile / 100), hist.amax)
        case "mse":
            return symmetric_clip(hist, FP8_LEVELS if settings.format == "fp8" else INT8_LEVELS)
        case "entropy":
            return entropy_clip(hist)


def _asymmetric(found: TensorStatistics, settings: Ptq) -> tuple[float, float]:
    """The low and the high clip."""
    hist = found.histogram
    match settings.ranges:
        case "minmax":
            return hist.low, hist.high
        case "moving_average":
            return moving_average(found.extremes)
        case "percentile":
            return _percentiles(hist, settings.percentile)
        case "mse":
            return asymmetric_clips(hist)
        case "entropy":
            one_sided = hist.low >= 0 or hist.high <= 0
            clip = entropy_clip(hist, 256 if one_sided else 128)
            return max(hist.low, -clip), min(hist.high, clip)


def _percentiles(hist: Histogram, percentile: float) -> tuple[float, float]:
    """What lies outside is shared evenly between both ends."""
    values, cut = moments(hist), (1 - percentile / 100) / 2
    low, high = np.clip([values.quantile(cut), values.quantile(1 - cut)], hist.low, hist.high).tolist()
    return low, high


def moving_average(extremes: Array) -> tuple[float, float]:
    """The averages of the images' lowest and highest values, later images weighing more.

    Image i of n weighs MOMENTUM**(n - 1 - i), and the weights are scaled to a sum of 1, so that the first image does
    not count for more than its share.

    Args:
        extremes: (n, 2) float32, lowest and highest value of each image, in the images' order.

    Source: torch.ao.quantization.MovingAverageMinMaxObserver with its averaging_constant of 0.01; the scaled weights
    are Adam's bias correction, arXiv:1412.6980, section 3.
    """
    weights = MOMENTUM ** np.arange(len(extremes) - 1, -1, -1, dtype=np.float64)
    low, high = ((weights / weights.sum())[:, None] * extremes).sum(axis=0).tolist()
    return low, high
