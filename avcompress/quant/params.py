"""From ranges to scales and zero points, by what the recipe's format asks.

Symmetric formats put the largest magnitude on the largest level: 127, 7, or 448 in FP8 E4M3; INT8's -128 and INT4's -8
stay free, so that a weight and its negative are as exact. Asymmetric INT8 spans low .. high with 256 levels, one of
which is exactly zero: padding and Relu produce it. All scales are float32 numbers, as a graph stores them.

Source: Jacob et al., arXiv:1712.05877; FP8: Micikevicius et al., arXiv:2209.05433.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from avcompress.recipe import Ptq
from avcompress.spec import Array, QDtype, QuantParams, TensorRange

QMAX: Mapping[QDtype, int] = {"int8": 127, "int4": 7, "float8e4m3fn": 448}
"""The level that the largest magnitude is put on."""
HALF = 63
"""The same in INT8 of which a weight uses half, so that two products with bytes add up in 16 bits."""
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def activation_params(values: TensorRange, settings: Ptq) -> QuantParams:
    """The scale and zero point of an activation; per channel where the range is."""
    if settings.format == "fp8":
        return symmetric(values, "float8e4m3fn")
    return asymmetric(values) if settings.activations == "asymmetric" else symmetric(values)


def weight_params(weight: Array, axis: int, settings: Ptq) -> QuantParams:
    """The scales of a weight, one for each of its output channels along `axis`, or one for all."""
    dtype: QDtype = "float8e4m3fn" if settings.format == "fp8" else "int8"
    level = HALF if settings.weight_bits == 7 else None
    return weight_scales(weight, axis if settings.weights == "per_channel" else None, dtype, level=level)


def weight_scales(
    weight: Array,
    axis: int | None,
    dtype: QDtype = "int8",
    block_size: int | None = None,
    level: int | None = None,
) -> QuantParams:
    """Symmetric scales of a weight: for all of it, each slice along `axis`, or each block of values along `axis`.

    Args:
        weight: float, finite; two-dimensional where it is cut into blocks.
        axis: of the output channels; of the inputs where `block_size` is given, which divides their number.
        dtype: a signed format.
        block_size: how many inputs share a scale.
        level: that the largest magnitude is put on; default: the format's largest.
    """
    if block_size is None or axis is None:
        others = tuple(i for i in range(weight.ndim) if i != axis)
        amax = np.abs(weight).max(axis=others if axis is not None else None)
    else:
        blocks = [*weight.shape[:axis], weight.shape[axis] // block_size, block_size, *weight.shape[axis + 1 :]]
        amax = np.abs(weight).reshape(blocks).max(axis=axis + 1)
    scale = _scale(np.asarray(amax, np.float64).reshape(-1), level or QMAX[dtype])
    return QuantParams(tuple(scale.tolist()), (0,) * len(scale), dtype, axis, block_size)


def symmetric(values: TensorRange, dtype: QDtype = "int8") -> QuantParams:
    """Zero point 0, the largest magnitude on the largest level; a range of zeros alone gets the scale of -1 .. 1."""
    amax = np.maximum(np.abs(values.low), np.abs(values.high))
    scale = _scale(amax, QMAX[dtype])
    return QuantParams(tuple(scale.tolist()), (0,) * len(scale), dtype, values.axis)


def _scale(amax: NDArray[np.float64], qmax: int) -> NDArray[np.float32]:
    """The steps that put amax on qmax; any step represents zeros."""
    return np.maximum(np.where(amax == 0, 1.0, amax) / qmax, _SMALLEST_SCALE).astype(np.float32)


def asymmetric(values: TensorRange) -> QuantParams:
    """INT8 over low .. high, widened to hold zero: its level is the zero point, so that zero is exact."""
    low, high = np.minimum(values.low, 0.0), np.maximum(values.high, 0.0)
    span = np.where(high == low, 1.0, high - low)
    scale = np.maximum(span / 255, _SMALLEST_SCALE).astype(np.float32)
    zero_point = np.clip(np.rint(-128 - low / scale.astype(np.float64)), -128, 127).astype(int)
    return QuantParams(tuple(scale.tolist()), tuple(zero_point.tolist()), "int8", values.axis)
