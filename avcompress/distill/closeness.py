"""How near the answers of two networks are, for a task: what an error in them counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avcompress.distill.boxes import SEEN, confidence, predictions, response
from avcompress.distill.soft import softmax_divergence
from avcompress.recipe import Detection

Size = tuple[int, int]
"""Height, width."""


class Closeness(NamedTuple):
    """Two views of one distance.

    Attributes:
        moves: the outputs in units in which the sum of the squares of small movements is the distance, or twice it,
            the mean over a batch's images.
        distance: between a network's outputs and those that they should be.
    """

    moves: Callable[[Any], Sequence[Tensor]]
    distance: Callable[[Any, Any], float]


def of_values() -> Closeness:
    """Every number alike, in parts of each output's deviation."""
    return Closeness(_deviations, _relative_distance)


def of_segmenter() -> Closeness:
    """Of logits (N, C, H, W): the divergence of their softmax, the mean over pixels."""
    return Closeness(_of_pixels, lambda ours, theirs: float(softmax_divergence(_one(ours), _one(theirs), 1.0, 1)))


def of_detector(task: Detection, size: Size) -> Closeness:
    """Of a raw output: as `boxes.response`, whose weights are the confidence of what the outputs should be."""

    def distance(ours: Any, theirs: Any) -> float:
        found, wanted = (predictions(_one(each).float(), task, size) for each in (ours, theirs))
        return float(response(found, wanted, temperature=1.0, boxes=1.0))

    return Closeness(lambda outputs: _of_cells(_one(outputs), task, size), distance)


def _one(outputs: Any) -> Tensor:
    """The output of a network that has one, whatever it is packed in."""
    found = floats(outputs)
    return found[0]


def floats(outputs: Any) -> list[Tensor]:
    """The tensors of numbers among what a network returns."""
    match outputs:
        case Tensor():
            return [outputs] if outputs.is_floating_point() else []
        case dict():
            return [part for value in outputs.values() for part in floats(value)]
        case _:
            return [part for value in outputs for part in floats(value)]


def _deviations(outputs: Any) -> list[Tensor]:
    """Several outputs count by their mean."""
    found = [output.float() for output in floats(outputs)]
    return [values / (_spread(values) * math.sqrt(values.numel() * _images(values) * len(found))) for values in found]


def _spread(values: Tensor) -> Tensor:
    spread = (values.detach() - values.detach().mean()).square().mean().sqrt()
    return spread.clamp(min=torch.finfo(torch.float32).tiny)


def _images(values: Tensor) -> int:
    return len(values) if values.dim() else 1


def _relative_distance(ours: Any, theirs: Any) -> float:
    pairs = list(zip(floats(ours), floats(theirs), strict=True))
    parts = [float(((a.float() - b.float()) / _spread(b.float())).square().mean()) for a, b in pairs]
    return sum(parts) / len(parts)


def _of_pixels(outputs: Any) -> list[Tensor]:
    """sqrt(p) (z - p'z): its squares sum up to z'(diag(p) - pp')z, the Fisher matrix of the softmax of z."""
    logits = _one(outputs).float()
    shares = logits.detach().softmax(1)
    moved = shares.sqrt() * (logits - (shares * logits).sum(1, keepdim=True))
    return [moved / math.sqrt(moved[0, 0].numel()) / len(moved)]


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
