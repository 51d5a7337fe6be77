"""Gradients of a network's weights, batch by batch, without a trace left in the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from avcompress.modes import evaluating
from avcompress.prune.answers import answers
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
    loss_of, count = lesson.loss_of(), 0
    for inputs, targets in lesson.batches:
        with evaluating(module), differentiable(module, weights.values()):
            loss = checked(loss_of(answers(module, inputs, "importance"), targets), count)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        pairs = zip(weights.items(), found, strict=True)
        yield {name: torch.zeros_like(weight) if grad is None else grad for (name, weight), grad in pairs}
        count += 1
    if not count:
        raise no_batches()


def checked(loss: Tensor, batch: int) -> Tensor:
    """The loss; raises ModelError where it is not finite, or depends on nothing."""
    if not bool(torch.isfinite(loss.detach())):
        got = float(loss.detach())
        raise ModelError(
            f"importance: expected a finite loss, got {got} in batch {batch}; look for damaged images or labels"
        )
    if not loss.requires_grad:
        raise ModelError(
            "importance: expected a loss that can be differentiated, got one without a gradient; compute it from the "
            "network's outputs in torch"
        )
    return loss


def no_batches() -> ModelError:
    """For a lesson without any."""
    return ModelError("importance: expected images to compute gradients from, got none; give at least one batch")


@contextlib.contextmanager
def differentiable(module: nn.Module, weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gradients for these weights alone; afterwards for those that had them before."""
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
