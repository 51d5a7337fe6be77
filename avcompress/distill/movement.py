"""What a small movement of a network's answers counts, by task.

The outputs in units in which the sum of the squares of what moves is how far the answers are then apart, as the losses
of training have it but for a factor; the mean over images.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from typing_extensions import assert_never

from avcompress.distill.boxes import SEEN, confidence, predictions
from avcompress.recipe import Detection, Segmentation, Task

Size = tuple[int, int]
"""Height, width."""
Moves = Callable[[Any], Sequence[Tensor]]
"""What a network returns in such units; they are constants where it is differentiated."""


def moves_of(task: Task | None, size: Size) -> Moves:
    """Of a task's outputs; without one, of any."""
    match task:
        case Detection():
            return moves_of_detector(task, size)
        case Segmentation():
            return moves_of_segmenter
        case None:
            return moves_of_values
        case _:
            assert_never(task)


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


def movement(moves: Moves, before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """How far a network's answers have moved from `before` to `after`: the sum of squares, to first order.

    Its units are those of the answers before. An output whose size has changed, for it depends on values, does not
    count, nor do outputs of whole numbers.
    """
    pairs = [(one, other) for one, other in zip(before, after, strict=True) if one.is_floating_point()]
    # No gradients are kept: so the forward derivative of a logit is that of its clamped form at 0 and 1, too.
    with torch.no_grad(), forward_ad.dual_level():
        steps = (other - one if one.shape == other.shape else torch.zeros_like(one) for one, other in pairs)
        moving = [_moving(one, step) for (one, _), step in zip(pairs, steps, strict=True)]
        tangents = [_tangent(part) for part in moves(moving)]
        return sum(float(tangent.double().square().sum()) for tangent in tangents if tangent is not None)


def _moving(values: Tensor, step: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # The first time, torch registers what forward derivatives it has by way of its own deprecated torch.jit.
        warnings.simplefilter("ignore", DeprecationWarning)
        dual: Tensor = forward_ad.make_dual(values, step)  # type: ignore[no-untyped-call]
        return dual


def _tangent(values: Tensor) -> Tensor | None:
    tangent: Tensor | None = forward_ad.unpack_dual(values).tangent  # type: ignore[no-untyped-call]
    return tangent


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
