"""The soft choice between rounding down and up, for every weight, that learned rounding drives to a hard one.

Source: Nagel, Amjad, van Baalen, Louizos, Blankevoort: Up or Down? Adaptive Rounding for Post-Training Quantization,
arXiv:2004.10568, equations 21 to 25.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ZETA, GAMMA = 1.1, -0.1
"""The sigmoid is stretched to these and cut at 1 and 0, which it reaches at finite values."""
_SOFTEST, _HARDEST = 20.0, 2.0
_WARM_UP = 0.2
"""The share of steps that the error alone decides in."""


def rectified_sigmoid(v: Tensor) -> Tensor:
    """The share of the way from down (0) to up (1)."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def sigmoid_slope(v: Tensor) -> Tensor:
    """The derivative of rectified_sigmoid: 0 where it is cut."""
    share = torch.sigmoid(v)
    inside = (share * (ZETA - GAMMA) + GAMMA - 0.5).abs() < 0.5
    return share * (1 - share) * (ZETA - GAMMA) * inside


def unrectified(share: Tensor) -> Tensor:
    """The v with rectified_sigmoid(v) = share, for shares in [0, 1)."""
    return -torch.log((ZETA - GAMMA) / (share - GAMMA) - 1)


def indecision(share: Tensor, beta: float) -> Tensor:
    """The sum of 1 - |2 share - 1|**beta: 0 where all shares are 0 or 1."""
    return (1 - (2 * share - 1).abs().pow(beta)).sum()


def indecision_slope(share: Tensor, beta: float) -> Tensor:
    """The derivative of indecision by each share."""
    side = 2 * share - 1
    return side.abs().pow(beta - 1) * side.sign() * (-2 * beta)


def undecided(share: Tensor) -> float:
    """The portion of shares that are neither near 0 nor near 1."""
    return float(((share - 0.5).abs() < 0.49).float().mean())


def beta_at(step: int, steps: int) -> float | None:
    """The regularizer's exponent, from soft to hard along a cosine; None while the error alone decides."""
    first = int(_WARM_UP * steps)
    if step < first:
        return None
    done = (step - first) / max(steps - first, 1)
    return _HARDEST + (_SOFTEST - _HARDEST) * 0.5 * (1 + math.cos(math.pi * done))


class Rounding(NamedTuple):
    """A weight's integers while they are learned; all tensors have or broadcast to its shape.

    Attributes:
        v: the variable.
        floor: the integers below the weight, less the zero point.
        qmin, qmax: the limits of the integers less the zero point.
    """

    v: Tensor
    floor: Tensor
    qmin: Tensor
    qmax: Tensor

    def integers(self, share: Tensor) -> Tensor:
        """Integers so much of the way up; with the rectified sigmoid of v, the weight itself at the start."""
        return torch.clamp(self.floor + share, self.qmin, self.qmax)

    def hard(self) -> Tensor:
        """The integers that v stands for."""
        return self.integers((self.v >= 0).to(self.v.dtype))


def start(steps: Tensor, qmin: Tensor, qmax: Tensor, integers: Tensor | None = None) -> Rounding:
    """Begin at the float weight, given as its number of scale steps, or half-way from there to given integers.

    A weight that is exactly 0 stays 0: it may have been pruned.
    """
    floor = torch.floor(steps)
    share = steps - floor
    if integers is not None:
        share = (share + (integers - floor).clamp(0, 1)) / 2
    low, high = (limit.expand_as(steps).masked_fill(steps == 0, 0) for limit in (qmin, qmax))
    return Rounding(unrectified(share), floor, low, high)
