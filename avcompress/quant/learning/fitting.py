"""Chooses the integers of one layer's weights so that a quadratic error is small: learned rounding, then single turns.

Source: Nagel, Amjad, van Baalen, Louizos, Blankevoort: Up or Down? Adaptive Rounding for Post-Training Quantization,
arXiv:2004.10568.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avcompress.quant.learning import rounding
from avcompress.quant.learning.moments import Moments

_ROUNDING_WEIGHT = 30.0
"""Of the regularizer, where the error of each channel counts as 1 when its weights are rounded to nearest."""
_CHECK_EVERY = 50
_UNDECIDED = 1e-3
_GAIN = 1e-5
_PAIRED = 32
"""Of a channel's weights, so many are considered for a turn of two at once: those that cost least alone."""


class Problem(NamedTuple):
    """The weights of one layer on their grid, each (G, M, K), float32.

    Attributes:
        weight: of the float network.
        scale: of one step.
        nearest: the integers less the zero point, as they are.
        qmin, qmax: their limits.
    """

    weight: NDArray[np.float32]
    scale: NDArray[np.float32]
    nearest: NDArray[np.float32]
    qmin: NDArray[np.float32]
    qmax: NDArray[np.float32]

    def error(self, integers: NDArray[np.float32], moments: Moments) -> NDArray[np.float64]:
        """The mean squared error of every output channel, (G, M), with these integers."""
        return moments.error(integers * self.scale - self.weight)


@torch.no_grad()
def learn_integers(problem: Problem, moments: Moments, steps: int, learning_rate: float) -> NDArray[np.float32]:
    """The integers, less the zero point, that learned rounding and single turns end at; (G, M, K).

    Each is the one below or the one above the weight, within the limits.
    """
    weight, scale, _, qmin, qmax = (torch.from_numpy(np.array(part, np.float32)) for part in problem)
    inputs, cross = torch.from_numpy(moments.inputs), torch.from_numpy(moments.cross)
    nearest = torch.from_numpy(problem.error(problem.nearest, moments).astype(np.float32))[..., None]
    # A channel that nearest rounding hits exactly still has something to divide by.
    unit = nearest + 1e-6 * nearest.mean() + torch.finfo(torch.float32).tiny
    start = rounding.start(weight / scale, qmin, qmax)

    def slope(integers: Tensor) -> Tensor:
        """Half the derivative of the error by the weights."""
        return torch.bmm(integers * scale - weight, inputs) - cross

    def derivative(integers: Tensor) -> Tensor:
        return 2 * slope(integers) * scale / unit

    _learn_(start, derivative, steps, learning_rate)
    candidates = (start.integers(torch.zeros(())), start.integers(torch.ones(())))
    integers = torch.where(start.v >= 0, candidates[1], candidates[0])
    found: NDArray[np.float32] = _turned(integers, candidates, scale, slope(integers), inputs, unit).numpy()
    return found


def _learn_(soft: rounding.Rounding, derivative: Callable[[Tensor], Tensor], steps: int, learning_rate: float) -> None:
    """Descend on the error, and on the regularizer that ends all indecision; stop when there is none."""
    v = soft.v
    v.grad = torch.zeros_like(v)
    optimizer = torch.optim.Adam([v], lr=learning_rate)
    for step in range(steps):
        share = rounding.rectified_sigmoid(v)
        pull = derivative(soft.integers(share))
        beta = rounding.beta_at(step, steps)
        if beta is not None:
            pull += rounding.indecision_slope(share, beta) * (_ROUNDING_WEIGHT / v.shape[-1])
        v.grad.copy_(pull * rounding.sigmoid_slope(v))
        optimizer.step()
        if step % _CHECK_EVERY == _CHECK_EVERY - 1 and rounding.undecided(share) < _UNDECIDED:
            return


def _turned(
    integers: Tensor, candidates: tuple[Tensor, Tensor], scale: Tensor, slope: Tensor, inputs: Tensor, unit: Tensor
) -> Tensor:
    """Turn in every channel the one or two weights that lower its error most, again and again until none does."""
    low, high = candidates
    curvature = torch.diagonal(inputs, dim1=1, dim2=2)[:, None, :]
    width = integers.shape[-1]
    for _ in range(2 * width):
        other = torch.where(integers == low, high, low)
        step = (other - integers) * scale
        gains, places = (step * (2 * slope + step * curvature)).topk(min(_PAIRED, width), largest=False)
        gain, first, second = _best_pair(gains, places, step.gather(-1, places), inputs)
        pays = gain < -_GAIN * unit
        if not pays.any():
            break
        for place, turns in ((first, pays), (second, pays & (first != second))):
            turned = torch.where(turns, other.gather(-1, place), integers.gather(-1, place))
            moved = torch.where(turns, step.gather(-1, place), 0.0)
            integers = integers.scatter(-1, place, turned)
            slope = slope + moved * inputs.gather(1, place.expand(-1, -1, width))
    return integers


def _best_pair(gains: Tensor, places: Tensor, steps: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two of the given weights that are best turned together, or twice the same one: gain and places, (G, M, 1)."""
    groups, channels, count = places.shape
    width = inputs.shape[-1]
    cells = (places[..., :, None] * width + places[..., None, :]).reshape(groups, -1)
    joint = inputs.reshape(groups, -1).gather(1, cells).reshape(groups, channels, count, count)
    both = gains[..., :, None] + gains[..., None, :] + 2 * steps[..., :, None] * steps[..., None, :] * joint
    alone = torch.eye(count, dtype=torch.bool)
    gain, cell = torch.where(alone, gains[..., :, None], both).reshape(groups, channels, -1).min(-1, keepdim=True)
    first = torch.div(cell, count, rounding_mode="floor")
    return gain, places.gather(-1, first), places.gather(-1, cell % count)
