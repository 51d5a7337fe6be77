"""A small anchor-free detector, and the loss it is trained with.

One prediction a cell at strides 8, 16 and 32: distances to the four sides in strides, and class logits.
Source: FCOS, arXiv:1904.01355 (cells, centre sampling); Generalized Focal Loss, arXiv:2006.04388 (quality as the
target of the class score); Generalized IoU, arXiv:1902.09630; PANet, arXiv:1803.01534 (the path back up).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avcompress import ranks
from avcompress.models.layers import DEPTHS, Backbone, ConvNormAct, initialize_, seeded

if TYPE_CHECKING:
    from calibration.sample import Sample

STRIDES = (8, 16, 32)
SPANS = (0.0, 56.0, 120.0, math.inf)
"""A level takes the objects whose longer side, in pixels, lies between its two spans."""
RADIUS = 1.5
"""Strides around an object's centre in which cells answer for it."""
PRIOR = 0.01
"""The score of every class before training: the loss starts small though nearly all cells are background."""


@dataclass(frozen=True)
class BoxTargets:
    """The objects of a batch, and the cells they are predicted by.

    Attributes:
        xyxy: (B, M, 4) float32, pixels of the network's input; zero where an image has fewer objects.
        labels: (B, M) int64, -1 there.
        ignore: (B, M) bool, where a prediction counts neither for nor against.
        centres: (N, 2) float32, x and y of every cell.
        strides: (N,) float32.
    """

    xyxy: Tensor
    labels: Tensor
    ignore: Tensor
    centres: Tensor
    strides: Tensor


class Detector(nn.Module):
    """(B, 3, H, W) images to (B, N, 4 + C): left, top, right, bottom in strides, then class logits."""

    def __init__(self, num_classes: int, width: int, depths: Sequence[int] = DEPTHS) -> None:
        super().__init__()
        self.num_classes = num_classes
        neck = 3 * width
        self.backbone = Backbone(width, depths)
        self.laterals = nn.ModuleList(ConvNormAct(c * width, neck, kernel=1) for c in (4, 6, 8))
        self.down = nn.ModuleList(ConvNormAct(2 * neck, neck) for _ in range(2))
        self.reduce = nn.ModuleList(ConvNormAct(neck, neck, stride=2) for _ in range(2))
        self.up = nn.ModuleList(ConvNormAct(2 * neck, neck) for _ in range(2))
        self.enlarge = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.towers = nn.ModuleList(ConvNormAct(neck, neck) for _ in STRIDES)
        self.heads = nn.ModuleList(nn.Conv2d(neck, 4 + num_classes, 1) for _ in STRIDES)
        initialize_(self)
        for head in self.heads:
            head = cast(nn.Conv2d, head)
            nn.init.normal_(head.weight, std=0.01)
            nn.init.constant_(cast(Tensor, head.bias)[:4], 1.0)
            nn.init.constant_(cast(Tensor, head.bias)[4:], -math.log((1 - PRIOR) / PRIOR))

    def forward(self, images: Tensor) -> Tensor:
        """Predict; the cells of stride 8 come first, row by row."""
        _, *features = self.backbone(images)
        fine, middle, coarse = (lateral(x) for lateral, x in zip(self.laterals, features, strict=True))
        middle = self.down[0](torch.cat((middle, self.enlarge(coarse)), dim=1))
        fine = self.down[1](torch.cat((fine, self.enlarge(middle)), dim=1))
        middle = self.up[0](torch.cat((self.reduce[0](fine), middle), dim=1))
        coarse = self.up[1](torch.cat((self.reduce[1](middle), coarse), dim=1))
        levels = [
            self._rows(head(tower(x)))
            for tower, head, x in zip(self.towers, self.heads, (fine, middle, coarse), strict=True)
        ]
        joined = torch.cat(levels, dim=2).transpose(1, 2)
        # A distance is never negative; unlike exp, softplus keeps one outlier from becoming a huge box.
        return torch.cat((F.softplus(joined[..., :4]), joined[..., 4:]), dim=-1)

    def _rows(self, level: Tensor) -> Tensor:
        # Not flatten: with the cells as a number, the exported graph computes no shapes.
        return level.reshape(-1, 4 + self.num_classes, int(level.shape[2]) * int(level.shape[3]))

    def targets(self, samples: Sequence[Sample]) -> BoxTargets:
        """Gather the boxes of samples whose images and boxes are in pixels of the network's input."""
        return box_targets(samples)

    def loss(self, outputs: Tensor, targets: BoxTargets) -> Tensor:
        """Quality focal loss of the scores plus GIoU loss of the boxes, over the number of answering cells."""
        return ltrb_loss(outputs, targets)


def box_targets(samples: Sequence[Sample]) -> BoxTargets:
    """Gather the boxes of samples whose images and boxes are in pixels of the network's input."""
    boxes = [sample.boxes for sample in samples if sample.boxes is not None]
    most = max((len(b.labels) for b in boxes), default=0)
    xyxy, labels = torch.zeros(len(samples), most, 4), torch.full((len(samples), most), -1)
    ignore = torch.zeros(len(samples), most, dtype=torch.bool)
    for i, b in enumerate(boxes):
        xyxy[i, : len(b.labels)] = torch.from_numpy(b.xyxy)
        labels[i, : len(b.labels)] = torch.from_numpy(b.labels)
        ignore[i, : len(b.labels)] = torch.from_numpy(b.ignore)
    height, width = samples[0].image.shape[:2]
    return BoxTargets(xyxy, labels, ignore, *grid(height, width))


def ltrb_loss(outputs: Tensor, targets: BoxTargets) -> Tensor:
    """Quality focal loss of the scores plus GIoU loss of the boxes, over the number of answering cells."""
    owner, background = assign(targets)
    distances, logits = outputs[..., :4], outputs[..., 4:]
    image, cell = torch.nonzero(owner >= 0, as_tuple=True)
    chosen = owner[image, cell]
    truth = targets.xyxy[image, chosen]
    reach = (distances[image, cell] * targets.strides[cell, None]).reshape(-1, 2, 2)
    middle = targets.centres[cell]
    predicted = torch.cat((middle - reach[:, 0], middle + reach[:, 1]), dim=-1)
    iou, giou = overlaps(predicted, truth)
    quality = torch.zeros_like(logits)
    quality[image, cell, targets.labels[image, chosen]] = iou.detach().clamp(min=0)
    counted = (owner >= 0) | background
    score_loss = (quality_focal(logits, quality) * counted[..., None]).sum()
    weight = iou.detach().clamp(min=0.05)
    box_loss = 2.0 * ((1 - giou) * weight).sum() / ranks.divisor(weight.sum(), 1.0)
    answering = torch.tensor(float(len(image)), device=score_loss.device)
    return score_loss / ranks.divisor(answering, 1.0) + box_loss


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Centres (N, 2), in pixels, and strides (N,) of all cells."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(-(-height // stride)), torch.arange(-(-width // stride)), indexing="ij")
        centres.append((torch.stack((x, y), dim=-1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((x.numel(),), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def assign(targets: BoxTargets) -> tuple[Tensor, Tensor]:
    """Which object each cell answers for.

    Returns:
        (B, N) int64: index of the object, -1 for none; and (B, N) bool: whether the cell is background.
    """
    if not targets.labels.numel():
        shape = (len(targets.labels), len(targets.centres))
        where = targets.labels.device
        return torch.full(shape, -1, device=where), torch.ones(shape, dtype=torch.bool, device=where)
    xyxy, cells = targets.xyxy[:, :, None], targets.centres
    size = xyxy[..., 2:] - xyxy[..., :2]
    middle = (xyxy[..., :2] + xyxy[..., 2:]) / 2
    away = (cells - middle).abs()
    longer = size.amax(dim=-1)
    level = torch.bucketize(longer, longer.new_tensor(SPANS[1:-1]))
    own_level = longer.new_tensor(STRIDES)[level] == targets.strides
    # Thin objects may hold no cell's centre: the nearest cells answer for them.
    limit = torch.maximum(torch.minimum(size / 2, RADIUS * targets.strides[:, None]), 0.75 * targets.strides[:, None])
    real = (targets.labels >= 0)[..., None]
    inside = (away < limit).all(dim=-1) & own_level & real & ~targets.ignore[..., None]
    # Where objects overlap, the smaller one is the nearer to being lost.
    area = torch.where(inside, size.prod(dim=-1), torch.inf)
    smallest, owner = area.min(dim=1)
    covered = ((away < size / 2).all(dim=-1) & real & targets.ignore[..., None]).any(dim=1)
    none = smallest.isinf()
    return torch.where(none, -1, owner), none & ~covered


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalized IoU, (K,) each, of boxes (K, 4) in pairs. Source: arXiv:1902.09630."""
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=-1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=-1) + (b[:, 2:] - b[:, :2]).prod(dim=-1) - inner
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=-1)
    iou = inner / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """|quality - score|^2 times the binary cross entropy, by element. Source: arXiv:2006.04388, eq. 4."""
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (quality - logits.sigmoid()).square() * entropy


def detector(num_classes: int, width: int = 16, seed: int = 0, depths: Sequence[int] = DEPTHS) -> Detector:
    """The reference detector, untrained.

    Args:
        num_classes: object classes.
        width: channels of the first convolution; all others are multiples of it.
        seed: of the weights.
        depths: residual blocks at strides 8, 16 and 32; 0 leaves the convolution that halves alone.
    """
    with seeded(seed):
        return Detector(num_classes, width, depths)
