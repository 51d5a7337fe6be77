"""Losses between the outputs of two detectors that predict the same cells, weighted by the teacher's confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import assert_never

from avcompress import ranks
from avcompress.distill.soft import bernoulli_divergence, divergence, logit
from avcompress.models.detection import overlaps
from avcompress.recipe import Detection
from engines.postprocess import cells

Size = tuple[int, int]
"""Height, width."""

_EXP_MAX = 10.0  # e^10 strides are larger than any image; beyond, nothing is to be learned
_FAR = 1e6  # pixels: boxes are cut there, so that no area overflows


SEEN = 1e-3
"""The confidence from which a teacher's cell teaches classes and boxes: lower scores are no detections anywhere."""


@dataclass(frozen=True)
class Predictions:
    """A detector's output, taken apart; N images, A cells or anchors, C classes.

    Attributes:
        xyxy: (N, A, 4), pixels of the network's input.
        values: (N, A, 4), the four numbers of a box as the network gives them: in strides, or pixels.
        objectness: (N, A); None where the classes' scores tell it.
        classes: (N, A, C).
        logits: whether those two are logits, not probabilities.
    """

    xyxy: Tensor
    values: Tensor
    objectness: Tensor | None
    classes: Tensor
    logits: bool

    def as_logits(self, scores: Tensor) -> Tensor:
        """Some of the scores as logits."""
        return scores if self.logits else logit(scores)


def predictions(output: Tensor, task: Detection, size: Size) -> Predictions:
    """Take a raw output apart as `engines.postprocess` decodes it, so that gradients pass.

    Args:
        output: (N, A, 5 + C) scores for yolox and yolov5, (N, A, 4 + C) logits for ltrb, (N, 4 + C, A) for yolov8.
        task: says which, and the strides of the cells.
        size: height and width of the network's input.
    """
    rows = output.transpose(1, 2) if task.decode == "yolov8" else output
    first = 5 if task.decode in {"yolox", "yolov5"} else 4
    xyxy = _xyxy(rows[..., :4], task, size).clamp(-_FAR, _FAR)
    objectness = rows[..., 4] if first == 5 else None
    return Predictions(xyxy, rows[..., :4], objectness, rows[..., first:], logits=task.decode == "ltrb")


def _xyxy(values: Tensor, task: Detection, size: Size) -> Tensor:
    first, second = values[..., :2], values[..., 2:]
    match task.decode:
        case "yolox":
            corner, step = _grid(values, task, size)
            centre, half = (first + corner) * step, second.clamp(max=_EXP_MAX).exp() * step / 2
            return torch.cat((centre - half, centre + half), dim=-1)
        case "ltrb":
            corner, step = _grid(values, task, size)
            centre = (corner + 0.5) * step
            return torch.cat((centre - first * step, centre + second * step), dim=-1)
        case "yolov5" | "yolov8":
            return torch.cat((first - second / 2, first + second / 2), dim=-1)
        case _:
            assert_never(task.decode)


def _grid(values: Tensor, task: Detection, size: Size) -> tuple[Tensor, Tensor]:
    """The cells' corners in strides, (A, 2), and their strides, (A, 1)."""
    corner, step = cells(np.arange(values.shape[1]), task.strides, size)
    return torch.from_numpy(corner).to(values.device), torch.from_numpy(step).to(values.device)


def confidence(found: Predictions) -> Tensor:
    """The score of every cell's best class, times its objectness: (N, A), from 0 to 1."""
    best, objectness = found.classes.amax(-1), found.objectness
    if found.logits:
        best = best.sigmoid()
        objectness = None if objectness is None else objectness.sigmoid()
    return best if objectness is None else best * objectness


def response(student: Predictions, teacher: Predictions, temperature: float, boxes: float) -> Tensor:
    """Scores like the teacher's everywhere, classes and boxes where it sees something: ().

    The sum over the cells of all images, divided by the teacher's total confidence, which is about the number of cells
    that answer for an object:

        KL(objectness) + confidence * T^2 KL(classes / T) + boxes * confidence * (1 - GIoU)

    Without objectness the classes' scores tell background too, so their divergence counts in every cell alike.
    Source: objectness-scaled distillation, Mehta and Ozturk 2018, arXiv:1805.06361; KL in the place of
    squared differences, and GIoU in that of the boxes' (arXiv:1902.09630).
    """
    weight = confidence(teacher)
    if student.objectness is None or teacher.objectness is None:
        everywhere = torch.ones_like(weight, dtype=torch.bool)
        scores = _of_classes(student, teacher, temperature, everywhere).sum()
    else:
        ours, theirs = student.as_logits(student.objectness), teacher.as_logits(teacher.objectness)
        seen = weight >= SEEN
        scores = bernoulli_divergence(ours, theirs).sum()
        scores = scores + (weight[seen] * _of_classes(student, teacher, temperature, seen)).sum()
    loss = scores / ranks.divisor(weight.sum(), 1.0)
    return loss + boxes * box_overlap(student, teacher) if boxes else loss


def _of_classes(student: Predictions, teacher: Predictions, temperature: float, chosen: Tensor) -> Tensor:
    """T^2 KL of the class scores of the chosen cells, summed over the classes: (K,)."""
    ours, theirs = (each.as_logits(each.classes[chosen]) / temperature for each in (student, teacher))
    return temperature**2 * bernoulli_divergence(ours, theirs).sum(-1)


def box_overlap(student: Predictions, teacher: Predictions) -> Tensor:
    """1 - GIoU of the two boxes of every cell, the mean weighted by the teacher's confidence: (), from 0 to 2."""
    weight = confidence(teacher)
    seen = weight >= SEEN
    _, giou = overlaps(student.xyxy[seen], teacher.xyxy[seen])
    return _weighted_mean(1 - giou, weight[seen])


def box_distance(student: Predictions, teacher: Predictions) -> Tensor:
    """The mean difference of a box's four numbers, as the network gives them, weighted as in `box_overlap`: ()."""
    weight = confidence(teacher)
    seen = weight >= SEEN
    return _weighted_mean((student.values[seen] - teacher.values[seen]).abs().mean(-1), weight[seen])


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Where there is hardly any weight, the sum: a picture without objects teaches no boxes."""
    return (values * weight).sum() / ranks.divisor(weight.sum(), 1.0)


def distribution_divergence(
    student: Tensor, teacher: Tensor, bins: int, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """T^2 KL(teacher || student) of the bins that each side of a box is predicted by, the mean of sides and cells: ().

    Args:
        student: logits (N, 4 * bins, ...), the bins of one side together, as heads for the distribution focal loss are.
        teacher: of the same shape.
        bins: of one side.
        temperature: the logits are divided by it.
        weight: (N, ...) of the cells, at least 0; None: all alike.

    Source: LD, Zheng et al. 2022, arXiv:2102.12252.
    """
    shape = (student.shape[0], 4, bins, -1)
    of_cells = divergence(student.reshape(shape), teacher.reshape(shape), temperature, axis=2).mean(1)
    if weight is None:
        return of_cells.mean()
    return _weighted_mean(of_cells, weight.reshape(of_cells.shape))
