"""A small real-time segmenter, and the loss it is trained with.

Features at stride 32 see the whole street; they are brought back to stride 4 step by step and summed with finer ones.
Source: Fast-SCNN, arXiv:1902.04502, and BiSeNet, arXiv:1808.00897 (a fine and a coarse path that are fused, context
from the whole picture's average); ENet, arXiv:1606.02147 (class weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avcompress import ranks
from avcompress.models.layers import DEPTHS, Backbone, ConvNormAct, initialize_, seeded
from calibration.sample import VOID

if TYPE_CHECKING:
    from calibration.sample import Sample


class Segmenter(nn.Module):
    """(B, 3, H, W) images to (B, C, H, W) class logits."""

    def __init__(self, num_classes: int, width: int, depths: Sequence[int] = DEPTHS) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = Backbone(width, depths)
        widths = (2 * width, 2 * width, 4 * width, 4 * width)
        # No normalization: of one value a picture and channel, a batch knows too little.
        self.context = nn.Sequential(nn.Conv2d(8 * width, 8 * width, 1), nn.ReLU(inplace=True))
        self.laterals = nn.ModuleList(
            ConvNormAct(c * width, w, kernel=1) for c, w in zip((2, 4, 6, 8), widths, strict=True)
        )
        self.fuse = nn.ModuleList(
            ConvNormAct(inputs, outputs) for inputs, outputs in zip(widths[1:], widths[:-1], strict=True)
        )
        self.enlarge = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)
        self.mix = nn.Sequential(ConvNormAct(widths[0], widths[0]), ConvNormAct(widths[0], widths[0]))
        self.head = nn.Conv2d(widths[0], 4 * num_classes, 1)
        self.unfold = nn.PixelShuffle(2)
        initialize_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Predict logits: at the images' size, in training at half of it, which saves a third of the time."""
        features = self.backbone(images)
        coarse = features[-1]
        features[-1] = coarse + self.context(coarse.mean(dim=(2, 3), keepdim=True))
        x = self.laterals[3](features[3])
        for level in (2, 1, 0):
            x = self.laterals[level](features[level]) + self.enlarge(self.fuse[level](x))
        # Four logits a cell of stride 4, one for each quarter: thin things stay thin.
        logits = self.unfold(self.head(self.mix(x)))
        return cast(Tensor, logits if self.training else self.enlarge(logits))

    def targets(self, samples: Sequence[Sample]) -> Tensor:
        """Stack the masks, (B, H, W) int64, of samples in pixels of the network's input."""
        return torch.from_numpy(np.stack([sample.mask for sample in samples if sample.mask is not None])).long()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy, in which rare classes count more; void pixels count nothing.

        Outputs of half the masks' size are held against every other row and column, from a random one of the first two.
        """
        step = targets.shape[-1] // outputs.shape[-1]
        row, column = torch.randint(step, (2,)).tolist()
        chosen = targets[:, row::step, column::step]
        weights = class_weights(chosen, self.num_classes)
        loss = F.cross_entropy(outputs, chosen, weights, ignore_index=VOID)
        if ranks.count() == 1:
            return loss
        mass = weights[chosen[chosen != VOID]].sum()
        return loss * mass / ranks.divisor(mass, 1e-6)


def class_weights(targets: Tensor, num_classes: int) -> Tensor:
    """1 / ln(1.05 + share of the labelled pixels) of every class: (C,). Source: ENet, arXiv:1606.02147."""
    counts = ranks.total(torch.bincount(targets[targets != VOID].flatten(), minlength=num_classes).float())
    return 1 / torch.log(1.05 + counts / counts.sum().clamp(min=1))


def segmenter(num_classes: int, width: int = 16, seed: int = 0, depths: Sequence[int] = DEPTHS) -> Segmenter:
    """The reference segmenter, untrained.

    Args:
        num_classes: classes of the masks, without void.
        width: channels of the first convolution; all others are multiples of it.
        seed: of the weights.
        depths: residual blocks at strides 8, 16 and 32; 0 leaves the convolution that halves alone.
    """
    with seeded(seed):
        return Segmenter(num_classes, width, depths)
