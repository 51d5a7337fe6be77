"""Zeros that stay: what pruning has set to 0 in a network is 0 after every step of its training.

There is no state beside the weights themselves, so that a training which is gone on with has the same zeros: what may
change is asked of the module before each step. Gradients are masked, too: those of zeros would count in the norm that
is clipped, and move them later by the optimizer's momentum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avcompress.spec import ModelError

Masks = Mapping[str, Tensor]
"""By the name of a parameter: bool, of its shape, False where it stays 0."""


@dataclass(frozen=True)
class Zeros:
    """Which values stay 0 while all others are trained, and how they become more.

    Attributes:
        masks: of the module that is trained; asked before every step and after it.
        grow_: sets more of the module's values to 0, given how many steps are done.
        final: so many steps are done when zeros no longer grow: no network before them is measured.
    """

    masks: Callable[[nn.Module], Masks]
    grow_: Callable[[nn.Module, int], None] | None = None
    final: int = 0


def zeros_of(names: Iterable[str]) -> Zeros:
    """What is exactly 0 in the parameters of these names stays so.

    Raises ModelError, once it is asked of a module, for a name that none of its parameters has.
    """
    wanted = tuple(dict.fromkeys(names))
    return Zeros(lambda module: {name: value.detach() != 0 for name, value in named(module, wanted).items()})


def joined(parts: Sequence[Zeros]) -> Zeros:
    """All of them together; a value that stays 0 in one of them does."""

    def masks(module: nn.Module) -> Masks:
        found: dict[str, Tensor] = {}
        for part in parts:
            for name, mask in part.masks(module).items():
                found[name] = found[name] & mask if name in found else mask
        return found

    def grow_(module: nn.Module, done: int) -> None:
        for part in parts:
            if part.grow_:
                part.grow_(module, done)

    return Zeros(masks, grow_, max((part.final for part in parts), default=0))


def named(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The module's parameters of these names; raises ModelError for one that is not there."""
    there = dict(module.named_parameters())
    missing = next((name for name in names if name not in there), None)
    if missing is not None:
        raise ModelError(
            f"train: expected a parameter {missing!r} whose zeros stay, got none of that name; name the parameters of "
            "the module that is trained"
        )
    return {name: there[name] for name in names}


@torch.no_grad()
def mask_gradients_(module: nn.Module, masks: Masks) -> None:
    """No gradient where a value stays 0."""
    for name, parameter in named(module, masks).items():
        if parameter.grad is not None:
            parameter.grad.masked_fill_(~masks[name].to(parameter.device), 0)


@torch.no_grad()
def mask_(module: nn.Module, masks: Masks) -> None:
    """0 where a value stays 0."""
    for name, parameter in named(module, masks).items():
        parameter.masked_fill_(~masks[name].to(parameter.device), 0)
