"""The loss of detectors whose output is as `decode: yolox` reads it, for networks that exist only as ONNX, too.

Source: YOLOX, arXiv:2107.08430, yolox/models/yolo_head.py (`get_losses`, `get_assignments`); SimOTA, a shortened OTA,
arXiv:2103.14259.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avcompress import ranks
from avcompress.recipe import Detection
from avcompress.spec import DataError, ModelError
from calibration.sample import Boxes, Sample
from engines.postprocess import cells

RADIUS = 1.5
"""Strides around an object's centre in which cells may answer for it."""
CANDIDATES = 10
"""So many of the best overlaps of an object add up to the number of cells that answer for it."""
IOU_COST = 3.0
IOU_WEIGHT = 5.0
_EXP_MAX = 20.0


class Cells(NamedTuple):
    """Every row of the output: its cell's centre (N, 2) in pixels, and its stride (N,)."""

    centres: Tensor
    strides: Tensor


class Predicted(NamedTuple):
    """One image's rows: boxes (N, 4) xyxy in pixels, objectness (N,) and class scores (N, C), both 0-1."""

    xyxy: Tensor
    objectness: Tensor
    scores: Tensor


class Assigned(NamedTuple):
    """The rows that answer for objects: their indices, their objects' indices, and the overlaps, (K,) each."""

    rows: Tensor
    objects: Tensor
    iou: Tensor


def yolox_loss(outputs: Tensor, samples: Sequence[Sample], task: Detection) -> Tensor:
    """5 (1 - IoU^2) + objectness + classes, summed over the batch and divided by the number of rows that answer.

    Args:
        outputs: (B, N, 5 + C): centre and logarithm of the size in strides, then objectness and class scores, 0-1.
        samples: in pixels of the network's input. Rows inside an ignored object count neither way.
        task: its strides.

    Raises ModelError for another shape, DataError for a sample without boxes.
    """
    height, width = samples[0].image.shape[:2]
    grid = _cells(outputs, task, (height, width))
    with torch.autocast(outputs.device.type, enabled=False):
        batch = _decode(outputs.float(), grid)
        parts = [_image_loss(each, _boxes(s, outputs), grid) for each, s in zip(batch, samples, strict=True)]
        answering = torch.stack([count for _, count in parts]).sum()
        return torch.stack([loss for loss, _ in parts]).sum() / ranks.divisor(answering, 1.0)


def _cells(outputs: Tensor, task: Detection, size: tuple[int, int]) -> Cells:
    count = sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in task.strides)
    if not isinstance(outputs, Tensor) or outputs.dim() != 3 or outputs.shape[1] != count or outputs.shape[2] < 6:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(
            f"loss yolox: expected an output (B, {count}, 5 + classes) for strides {task.strides} and input "
            f"{size[0]}x{size[1]}, got {got}; check task.strides and model.output"
        )
    corner, stride = cells(np.arange(count), task.strides, size)
    steps = torch.from_numpy(stride[:, 0]).to(outputs.device)
    return Cells((torch.from_numpy(corner).to(outputs.device) + 0.5) * steps[:, None], steps)


def _decode(outputs: Tensor, grid: Cells) -> list[Predicted]:
    steps = grid.strides[:, None]
    centre = (outputs[..., :2] - 0.5) * steps + grid.centres
    half = outputs[..., 2:4].clamp(max=_EXP_MAX).exp() * steps / 2
    xyxy = torch.cat((centre - half, centre + half), dim=-1)
    return [Predicted(*parts) for parts in zip(xyxy, outputs[..., 4], outputs[..., 5:], strict=True)]


def _boxes(sample: Sample, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (M, 4) and labels (M,) to be found, and boxes to be ignored."""
    boxes = sample.boxes
    if boxes is None:
        raise DataError(f"{sample.name}: expected boxes for loss yolox, got none; check data.train")
    size = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
    found: Boxes = boxes.keep(~boxes.ignore & (size > 0).all(axis=1))
    ignored = boxes.keep(boxes.ignore)
    device = outputs.device
    xyxy, labels, rest = (torch.from_numpy(a).to(device) for a in (found.xyxy, found.labels, ignored.xyxy))
    if len(labels) and int(labels.max()) >= outputs.shape[2] - 5:
        raise ModelError(
            f"loss yolox: expected an output of at least {int(labels.max()) + 1} classes, got {outputs.shape[2] - 5}; "
            "check `classes`"
        )
    return xyxy, labels, rest


def _image_loss(predicted: Predicted, boxes: tuple[Tensor, Tensor, Tensor], grid: Cells) -> tuple[Tensor, Tensor]:
    """The sum of the losses of one image, and the number of rows that answer."""
    xyxy, labels, ignored = boxes
    assigned = assign(predicted, xyxy, labels, grid)
    answers = torch.zeros_like(predicted.objectness)
    answers[assigned.rows] = 1
    counted = (answers > 0) | ~_inside(grid.centres, ignored).any(dim=1)
    entropy = F.binary_cross_entropy(predicted.objectness, answers, reduction="none")
    objectness = (entropy * counted).sum()
    iou = paired_iou(predicted.xyxy[assigned.rows], xyxy[assigned.objects])
    wanted = torch.zeros_like(predicted.scores[assigned.rows])
    wanted[torch.arange(len(assigned.rows)), labels[assigned.objects]] = assigned.iou
    classes = F.binary_cross_entropy(predicted.scores[assigned.rows], wanted, reduction="sum")
    loss = IOU_WEIGHT * (1 - iou.square()).sum() + objectness + classes
    return loss, torch.tensor(float(len(assigned.rows)), device=loss.device)


@torch.no_grad()
def assign(predicted: Predicted, xyxy: Tensor, labels: Tensor, grid: Cells) -> Assigned:
    """SimOTA: each object takes the cheapest cells near its centre, as many as its best overlaps add up to.

    The cost of a cell is its class entropy plus 3 times the negative logarithm of its overlap; cells near another
    object's centre only are taken last. A cell that several objects take goes to the one it is cheapest for.
    """
    away = (grid.centres[None] - (xyxy[:, None, :2] + xyxy[:, None, 2:]) / 2).abs()
    near = (away < RADIUS * grid.strides[None, :, None]).all(dim=-1)
    rows = torch.nonzero(near.any(dim=0))[:, 0]
    if not len(rows):
        none = torch.zeros(0, dtype=torch.int64, device=xyxy.device)
        return Assigned(none, none, xyxy.new_zeros(0))
    iou = pairwise_iou(xyxy, predicted.xyxy[rows])
    joint = (predicted.scores[rows] * predicted.objectness[rows, None]).sqrt()
    onehot = F.one_hot(labels, joint.shape[1]).float()
    shape = (len(xyxy), *joint.shape)
    entropy = F.binary_cross_entropy(joint.expand(shape), onehot[:, None].expand(shape), reduction="none").sum(dim=-1)
    cost = entropy - IOU_COST * torch.log(iou + 1e-8) + 1e6 * ~near[:, rows]
    wanted = iou.topk(min(CANDIDATES, len(rows)), dim=1).values.sum(dim=1).int().clamp(min=1)
    order = cost.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    taken = order < wanted[:, None]
    several = taken.sum(dim=0) > 1
    cheapest = F.one_hot(cost.argmin(dim=0), len(xyxy)).T.bool()
    taken = torch.where(several, cheapest, taken)
    columns = torch.nonzero(taken.any(dim=0))[:, 0]
    objects = taken[:, columns].int().argmax(dim=0)
    return Assigned(rows[columns], objects, iou[objects, columns])


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (M, N) of boxes (M, 4) with boxes (N, 4), xyxy."""
    return paired_iou(a[:, None], b[None])


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes xyxy, shapes that broadcast."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    union = (a[..., 2:] - a[..., :2]).prod(dim=-1) + (b[..., 2:] - b[..., :2]).prod(dim=-1) - inner
    return inner / union.clamp(min=1e-6)


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points (N, 2) lie in boxes (M, 4): (N, M)."""
    low, high = points[:, None] > boxes[None, :, :2], points[:, None] < boxes[None, :, 2:]
    return (low & high).all(dim=-1)
