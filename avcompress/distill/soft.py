"""Class scores of a teacher as labels: divergences at a temperature.

Source: Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float, axis: int = 1) -> Tensor:
    """T^2 KL(teacher || student) of softmax distributions, summed over the classes, the mean of all places: ().

    Args:
        student: logits, (N, C, ...) with the classes along `axis`.
        teacher: logits of the same shape.
        temperature: both are divided by it; T^2 keeps the gradient's size. Source: arXiv:1503.02531, section 2.
        axis: of the classes.
    """
    ours, theirs = (F.log_softmax(logits / temperature, axis) for logits in (student, teacher))
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(axis).mean()


def sigmoid_divergence(student: Tensor, teacher: Tensor, temperature: float, axis: int = 1) -> Tensor:
    """T^2 KL(teacher || student) of classes that are each present or not, summed over them, the mean of all places: ().

    Takes logits as `softmax_divergence` does. Less the teacher's own entropy it is the binary cross entropy.
    """
    return temperature**2 * bernoulli_divergence(student / temperature, teacher / temperature).sum(axis).mean()


def bernoulli_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) by element, of logits of any shape: t (log t - log s) + (1 - t) (log(1 - t) - log(1 - s)).

    log s - log t for both outcomes is taken from the logits: no probability is ever rounded to 0 or 1.
    """
    present = teacher.sigmoid()
    return F.softplus(student) - F.softplus(teacher) - present * (student - teacher)


def mixed(hard: Tensor, soft: Tensor, alpha: float) -> Tensor:
    """Alpha * hard + (1 - alpha) * soft: the labels' own loss and the teacher's."""
    return alpha * hard + (1 - alpha) * soft


def logit(probability: Tensor) -> Tensor:
    """Back from a sigmoid, by element; float32 tells apart no probabilities nearer to 0 or 1 than 1e-6."""
    return torch.logit(probability, eps=1e-6)
