"""What a small movement of a network's answers counts, by task.

The outputs in units in which the sum of the squares of what moves is how far the answers are then apart, as the losses
of training have it but for a factor; the mean over images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from avcompress.distill.boxes import SEEN, confidence, predictions
from avcompress.recipe import Detection

Size = tuple[int, int]
"""Height, width."""
Moves = Callable[[Any], Sequence[Tensor]]
"""What a network returns in such units; they are constants where it is differentiated."""


def moves_of_detector(task: Detection, size: Size) -> Moves:
    """Of a raw output: as `boxes.response`, weighted by the network's own confidence, not divided by its sum."""
    return lambda outputs: _of_cells(_one(outputs), task, size)


def moves_of_segmenter(outputs: Any) -> list[Tensor]:
    """Of logits (N, C, H, W), for the divergence of their softmax, the mean over pixels.

    It is sqrt(p) (z - p'z): its squares sum up to z'(diag(p) - pp')z, the Fisher matrix of the softmax p of z.
    """
    logits = _one(outputs).float()
    shares = logits.detach().softmax(1)
    moved = shares.sqrt() * (logits - (shares * logits).sum(1, keepdim=True))
    return [moved / math.sqrt(moved[0, 0].numel()) / len(moved)]


def moves_of_values(outputs: Any) -> list[Tensor]:
    """Of any outputs: every number alike, in parts of its output's deviation; several outputs count by their mean."""
    found = [output.float() for output in _floats(outputs)]
    return [values / (_spread(values) * math.sqrt(values.numel() * _images(values) * len(found))) for values in found]


def _one(outputs: Any) -> Tensor:
    """The output of a network that has one, whatever it is packed in."""
    return _floats(outputs)[0]


def _floats(outputs: Any) -> list[Tensor]:
    """The tensors of numbers among what a network returns."""
    match outputs:
        case Tensor():
            return [outputs] if outputs.is_floating_point() else []
        case dict():
            return [part for value in outputs.values() for part in _floats(value)]
        case _:
            return [part for value in outputs for part in _floats(value)]


def _spread(values: Tensor) -> Tensor:
    spread = (values.detach() - values.detach().mean()).square().mean().sqrt()
    return spread.clamp(min=torch.finfo(torch.float32).tiny)


def _images(values: Tensor) -> int:
    return len(values) if values.dim() else 1


def _of_cells(output: Tensor, task: Detection, size: Size) -> list[Tensor]:
    """Objectness, and of the cells that see something the classes and corners; corners in parts of the box's size."""
    found = predictions(output.float(), task, size)
    weight = confidence(found).detach()
    # Without objectness the classes tell background, too: in every cell, as in `response`.
    seen = weight >= SEEN
    parts = []
    if found.objectness is None:
        parts.append(_as_bernoulli(found.as_logits(found.classes)))
    else:
        parts.append(_as_bernoulli(found.as_logits(found.objectness)))
        parts.append(_as_bernoulli(found.as_logits(found.classes[seen])) * weight[seen].sqrt()[:, None])
    corners = found.xyxy[seen]
    sides = (corners[:, 2:] - corners[:, :2]).detach().clamp(min=1)
    parts.append(weight[seen].sqrt()[:, None] * corners / sides.repeat(1, 2))
    return [part / len(output) for part in parts]


def _as_bernoulli(logits: Tensor) -> Tensor:
    """Sqrt(p (1 - p)) z: its square is that of a step of z in the Fisher matrix of a coin with the logit z."""
    shares = logits.detach().sigmoid()
    return (shares * (1 - shares)).sqrt() * logits
