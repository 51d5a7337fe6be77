"""The exponential by additions and multiplications alone, in one order: the same bits on every processor and GPU.

The exp of a library differs by a unit in the last place from one CPU, version or GPU to the next; a box at the edge of
a threshold would then stay here and go there. engines/tensorrt/postprocess.cu has the same steps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_LOG2_E = 1.4426950408889634
# ln 2 in two parts: the first has 21 zero bits at its end, so that its multiples are exact.
_LN2_HIGH = 0.6931471803691238
_LN2_LOW = 1.9082149292705877e-10
_TERMS = tuple(1 / math.factorial(n) for n in range(13, -1, -1))  # to the power 13: below 1e-16 up to ln(2) / 2
_LEAST = -150.0  # e^-150 is 0 in float32


def exact_exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """e^x of finite x up to 88, the float32 nearest to it but for one case in millions.

    Source: Cody and Waite's reduction of the argument, and Taylor's series, in float64.
    """
    wide = np.maximum(x.astype(np.float64), _LEAST)
    power = np.rint(wide * _LOG2_E)
    rest = (wide - power * _LN2_HIGH) - power * _LN2_LOW
    series = np.full_like(rest, _TERMS[0])
    for term in _TERMS[1:]:
        series *= rest
        series += term
    scale = ((power.astype(np.int64) + 1023) << 52).view(np.float64)
    return (series * scale).astype(np.float32)
