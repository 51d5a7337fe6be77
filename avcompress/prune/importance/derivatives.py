"""Gradients of a network's weights, batch by batch, without a trace left in the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from avcompress.prune.importance.lesson import Lesson
from avcompress.spec import ModelError


def weights_by_name(module: fx.GraphModule, tensors: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of what import_onnx made, by the names of their constants; others are left out."""
    attributes: Mapping[str, str] = module.meta["parameters"]
    return {name: module.get_parameter(attributes[name]) for name in tensors if name in attributes}


def gradients(
    module: fx.GraphModule, weights: Mapping[str, nn.Parameter], lesson: Lesson
) -> Iterator[dict[str, Tensor]]:
    """The gradient of each batch's loss by each of these weights; zeros where the loss does not depend on one.

    Raises ModelError for a loss that is not finite, or when there are no batches; without weights nothing is computed.
    """
    if not weights:
        return
    loss_of = lesson.loss_of()
    count = 0
    for inputs, targets in lesson.batches:
        with evaluating(module), _differentiable(module, weights.values()):
            loss = loss_of(module(inputs), targets)
            if not bool(torch.isfinite(loss)):
                got = float(loss.detach())
                raise ModelError(
                    f"importance: expected a finite loss, got {got} in batch {count}; look for damaged images or labels"
                )
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        pairs = zip(weights.items(), found, strict=True)
        yield {name: torch.zeros_like(weight) if grad is None else grad for (name, weight), grad in pairs}
        count += 1
    if not count:
        raise ModelError("importance: expected images to compute gradients from, got none; give at least one batch")


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The mode of evaluation; afterwards every part is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def _differentiable(module: nn.Module, weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gradients for these weights alone."""
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    wanted = {id(weight) for weight in weights}
    for parameter, _ in before:
        parameter.requires_grad_(id(parameter) in wanted)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


def one_by_one(batches: Iterable[tuple[Tensor, Any]]) -> Iterator[tuple[Tensor, Any]]:
    """Batches of one image; raises ModelError for targets that cannot be taken apart."""
    for inputs, targets in batches:
        for index in range(len(inputs)):
            yield inputs[index : index + 1], _of_one(targets, index, len(inputs))


def _of_one(targets: Any, index: int, count: int) -> Any:
    """The targets of one image: of tensors and sequences with one entry an image, in mappings, too."""
    match targets:
        case None:
            return None
        case dict():
            return {key: _of_one(value, index, count) for key, value in targets.items()}
        case Tensor() | list() | tuple() if len(targets) == count:
            return targets[index : index + 1]
        case _:
            raise ModelError(
                f"importance fisher: expected targets of {count} images that can be taken apart, got a "
                f"{type(targets).__name__}; give batches of one image, or choose taylor"
            )
