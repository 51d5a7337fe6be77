"""One descent: parameter groups, optimizer, learning rate, averaging.

Source: AdamW, arXiv:1711.05101; cosine schedule, arXiv:1608.03983; averaging, Polyak and Juditsky 1992.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from avcompress.recipe_training import Training

FINAL_RATE = 0.02
"""What is left of the learning rate at the end of a cosine."""


def groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay weights; leave biases and normalization alone. A group may have a `factor` on the learning rate."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def relative(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A group for each tensor, its learning rate a multiple of the tensor's root mean square; of zeros, as it is.

    AdamW changes every value by about the learning rate. Once normalization is folded in, that is much for the weights
    of one layer and nothing for those of another: in YOLOX-nano they are .005 in the mean in one and 12 in another.
    """
    return [
        part | {"params": [p], "factor": part.get("factor", 1.0) * (float(p.detach().square().mean().sqrt()) or 1.0)}
        for part in parts
        for p in part["params"]
    ]


def make_optimizer(parameters: list[dict[str, Any]], settings: Training) -> torch.optim.Optimizer:
    """The optimizer that the settings name."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(parameters, lr=settings.learning_rate)


def set_rate_(optimizer: torch.optim.Optimizer, settings: Training, step: int, steps: int) -> float:
    """Give every group its learning rate of a step; returns that of groups without a factor."""
    current = settings.learning_rate * rate(step, steps, settings.warmup, settings.schedule == "cosine")
    for group in optimizer.param_groups:
        group["lr"] = current * group.get("factor", 1.0)
    return current


def rate(step: int, steps: int, warmup: float = 0.05, cosine: bool = True) -> float:
    """The learning rate's factor: a linear rise over a share of the steps, then half a cosine or nothing."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    if not cosine:
        return 1.0
    progress = (step - rise) / max(1, steps - rise)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


def kept(settings: Training, steps: int) -> float:
    """How much of the averaged state a step keeps."""
    return 1 - 1 / max(2.0, settings.ema * steps) if settings.ema else 0.0


@torch.no_grad()
def average_(averaged: nn.Module, module: nn.Module, keep: float) -> None:
    """Move the averaged state towards the module's: keep * averaged + (1 - keep) * module."""
    ours, theirs = averaged.state_dict(), module.state_dict()
    floats = [name for name, value in ours.items() if value.is_floating_point()]
    torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - keep)
    for name in ours.keys() - set(floats):
        ours[name].copy_(theirs[name])
