"""Class scores of a teacher as labels: divergences at a temperature.

Source: Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F  # noqa: N812


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float, axis: int = 1) -> Tensor:
    """T^2 KL(teacher || student) of softmax distributions, summed over the classes, the mean of all places: ().

    Args:
        student: logits, (N, C, ...) with the classes along `axis`.
        teacher: logits of the same shape; they get no gradient.
        temperature: both are divided by it; T^2 keeps the gradient's size. Source: arXiv:1503.02531, section 2.
        axis: of the classes.
    """
    return divergence(student, teacher, temperature, axis).mean()


def divergence(student: Tensor, teacher: Tensor, temperature: float, axis: int) -> Tensor:
    """T^2 KL(teacher || student) of the softmax along one axis, for every place: that axis is gone from the shape."""
    found: Tensor = _SoftmaxDivergence.apply(student, teacher, temperature, axis)  # type: ignore[no-untyped-call]
    return found


def sigmoid_divergence(student: Tensor, teacher: Tensor, temperature: float, axis: int = 1) -> Tensor:
    """T^2 KL(teacher || student) of classes that are each present or not, summed over them, the mean of all places: ().

    Takes logits as `softmax_divergence` does. Less the teacher's own entropy it is the binary cross entropy.
    """
    return temperature**2 * bernoulli_divergence(student / temperature, teacher / temperature).sum(axis).mean()


def bernoulli_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) by element, of logits of any shape: t (log t - log s) + (1 - t) (log(1 - t) - log(1 - s)).

    The logarithms are taken from the logits: no probability is ever rounded to 0 or 1. No gradient for the teacher.
    """
    found: Tensor = _BernoulliDivergence.apply(student, teacher)  # type: ignore[no-untyped-call]
    return found


def mixed(hard: Tensor, soft: Tensor, alpha: float) -> Tensor:
    """Alpha * hard + (1 - alpha) * soft: the labels' own loss and the teacher's."""
    return alpha * hard + (1 - alpha) * soft


def logit(probability: Tensor) -> Tensor:
    """Back from a sigmoid, by element; float32 tells apart no probabilities nearer to 0 or 1 than 1e-6."""
    return torch.logit(probability, eps=1e-6)


# Outputs are large, and autograd would keep every intermediate result of these formulas: on ESPNet's output that is a
# tenth of the student's step. Their gradients are differences of probabilities.


class _SoftmaxDivergence(Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, axis: int) -> Tensor:
        ours, theirs = (F.log_softmax(logits / temperature, axis) for logits in (student, teacher))
        shares = theirs.exp()
        ctx.save_for_backward(ours, shares)
        ctx.temperature, ctx.axis = temperature, axis
        return theirs.sub_(ours).mul_(shares).sum(axis).mul_(temperature**2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        ours, shares = ctx.saved_tensors
        return ours.exp().sub_(shares).mul_(gradient.unsqueeze(ctx.axis) * ctx.temperature), None, None, None


class _BernoulliDivergence(Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        present = teacher.sigmoid()
        ctx.save_for_backward(student, present)
        expected = (student - teacher).mul_(present)
        return F.softplus(student).sub_(F.softplus(teacher)).sub_(expected)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        student, present = ctx.saved_tensors
        return student.sigmoid().sub_(present).mul_(gradient), None
