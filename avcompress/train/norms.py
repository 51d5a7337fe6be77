"""What batch normalization does while a network is trained, and after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from avcompress import ranks

BATCHES = 50
"""How many re-estimate the statistics, at most."""


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]


def set_mode_(module: nn.Module, frozen: bool) -> None:
    """Put a module into training mode; frozen normalization keeps its statistics, its scale and shift are trained."""
    module.train()
    for norm in _norms(module) if frozen else []:
        norm.eval()


def joint_statistics(module: nn.Module) -> nn.Module:
    """With several processes on GPUs, normalize by the statistics of the whole batch.

    torch offers that on GPUs only: on CPUs each process normalizes its own part, and the first one's statistics stay.
    """
    first = next(module.parameters(), None)
    if ranks.count() == 1 or first is None or not first.is_cuda:
        return module
    joint = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return cast(nn.Module, joint)


@torch.no_grad()
def reestimate_(module: nn.Module, batches: Iterable[Tensor]) -> int:
    """Put the mean over the batches in the place of every normalization's statistics; returns how many layers.

    The module is in eval mode before and after. Source: precise batch normalization, arXiv:2105.07576.
    """
    norms = _norms(module)
    before: list[Any] = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    if norms:
        for inputs in batches:
            module(inputs)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()
    return len(norms)
