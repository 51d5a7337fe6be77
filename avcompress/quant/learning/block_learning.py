"""Learns one block's rounding and scales from what it reads and should give.

Sources: BRECQ, arXiv:2102.05426; QDrop, arXiv:2203.05740.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor

from avcompress.quant.learning import rounding
from avcompress.quant.learning.block_module import BlockModule, Weight
from avcompress.quant.learning.block_values import HELD_OUT, Values
from avcompress.recipe import Reconstruct
from avcompress.spec import Array

_ROUNDING_WEIGHT = 30.0
"""Of the regularizer, where the error of the block counts as 1 before it is learned."""
_SCALE_RATE = 0.1
"""Of the logarithms of scales, against that of the rounding variables."""
_STEP_ELEMENTS = 1 << 18
"""Of a block's input or output in one step: it says how many images a step takes, up to 8."""
_LARGEST_STEP = 8


@dataclass(frozen=True, eq=False)
class Part:
    """A block to be learned.

    Attributes:
        model: the quantized block, with one input and one output.
        weights: by the name of their integers.
        scales: the activation scales to be learned, by name.
    """

    model: onnx.ModelProto
    weights: Mapping[str, Weight]
    scales: Mapping[str, float]


@dataclass(frozen=True)
class Learned:
    """A block's mean squared error on held-out images before and after, and its new constants if that is less."""

    before: float
    after: float
    integers: Mapping[str, Array]
    scales: Mapping[str, float]


class _Data(NamedTuple):
    """Values as tensors, each (N, *shape of one image's)."""

    given: Tensor
    wanted: Tensor
    output: Tensor


def learn_block(part: Part, values: Values, settings: Reconstruct) -> Learned:
    """Learn a block on three quarters of the images, and judge it on the others; of one image, on that.

    Deterministic for a seed.
    """
    before = BlockModule(part.model, {}, ())
    after = BlockModule(part.model, part.weights, tuple(part.scales))
    images = torch.arange(len(values.given))
    held = images % HELD_OUT == 1 if len(images) > 1 else images == 0
    data = _Data(*(torch.from_numpy(np.ascontiguousarray(each)) for each in values))
    train = images[~held] if len(images) > 1 else images
    _learn_(after, data, train, settings, _error(before, data, train))
    errors = [_error(each, data, images[held]) for each in (before, after)]
    if not errors[1] < errors[0]:
        return Learned(errors[0], errors[0], {}, {})
    scales = {name: float(after.scale(name, torch.tensor(scale)).detach()) for name, scale in part.scales.items()}
    return Learned(errors[0], errors[1], after.integers(), scales)


@torch.no_grad()
def _error(block: BlockModule, data: _Data, images: Tensor) -> float:
    """The mean squared error of a block's output on its own inputs, as it is deployed."""
    errors = [(block.run(data.given[i]) - data.output[i]).square().mean() for i in images.tolist()]
    return float(torch.stack(errors).mean())


@torch.no_grad()
def _takes_several(block: BlockModule, data: _Data) -> bool:
    """Whether a block computes several images at once as it does one by one.

    Windows of attention, which are images of their own, are counted in the reshapes; torch knows best where that fails.
    """
    pair = data.given[:2]
    apart = torch.cat([block.run(each) for each in pair])
    try:
        together = block.run(pair.flatten(0, 1))
    except (RuntimeError, IndexError, ValueError):
        return False
    return together.shape == apart.shape and torch.allclose(together, apart, 1e-3, 1e-3 * float(apart.abs().max()))


def _run(block: BlockModule, given: Tensor, several: bool) -> Tensor:
    """The block's outputs for (n, ...) inputs."""
    if several:
        output: Tensor = block.run(given.flatten(0, 1))
        return output.reshape(len(given), -1, *output.shape[1:])
    return torch.stack([block.run(each) for each in given])


def _learn_(block: BlockModule, data: _Data, train: Tensor, settings: Reconstruct, unit: float) -> None:
    """Descend on the output's error, in parts of `unit`, and the roundings' indecision."""
    block.random.manual_seed(settings.seed)
    several = _takes_several(block, data)
    block.soft, block.drop = True, settings.drop
    groups = [{"params": block.variables(), "lr": settings.learning_rate}]
    if block.growth:
        groups.append({"params": list(block.growth.values()), "lr": settings.learning_rate * _SCALE_RATE})
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, [lambda _: 1.0, lambda step: 0.5 * (1 + math.cos(math.pi * step / settings.steps))][: len(groups)]
    )
    for step, images in enumerate(_order(data, train, settings.steps, block.random)):
        given, output = _mixed(block, data, images, settings.drop), data.output[images]
        loss = (_run(block, given, several) - output).square().mean() / max(unit, torch.finfo(torch.float32).tiny)
        loss = loss + _ROUNDING_WEIGHT * _indecision(block, rounding.beta_at(step, settings.steps))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    block.soft, block.drop = False, 0.0


def _order(data: _Data, train: Tensor, steps: int, random: torch.Generator) -> Iterator[Tensor]:
    """The images of every step: each as often as the others, in a new order each time around."""
    largest = max(data.given[0].numel(), data.output[0].numel())
    count = max(1, min(_LARGEST_STEP, len(train), _STEP_ELEMENTS // largest))
    queue = train[:0]
    for _ in range(steps):
        if len(queue) < count:
            queue = train[torch.randperm(len(train), generator=random)]
        yield queue[:count]
        queue = queue[count:]


def _mixed(block: BlockModule, data: _Data, images: Tensor, drop: float) -> Tensor:
    """The quantized network's values, with a share of the float one's among them."""
    given: Tensor = data.given[images]
    if not drop:
        return given
    return torch.where(torch.rand(given.shape, generator=block.random) < drop, data.wanted[images], given)


def _indecision(block: BlockModule, beta: float | None) -> Tensor:
    """The regularizer, 1 a weight where none is decided."""
    if beta is None:
        return torch.zeros(())
    shares = block.shares()
    total = torch.stack([rounding.indecision(share, beta) for share in shares]).sum()
    return total / sum(share.numel() for share in shares)
