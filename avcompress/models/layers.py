"""The blocks that both reference networks are made of: convolution, batch normalization, ReLU; sums and concatenations.

No depthwise convolution and no SiLU: both lose accuracy, or speed, in INT8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn


class ConvNormAct(nn.Sequential):
    """Convolution, batch normalization, ReLU: (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """A bottleneck around which the input is added: (N, C, H, W) to the same.

    Source: Darknet-53, arXiv:1804.02767.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvNormAct(channels, channels // 2, kernel=1)
        self.expand = ConvNormAct(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the bottleneck finds to the input."""
        return x + cast(Tensor, self.expand(self.squeeze(x)))


DEPTHS = (2, 2, 1)


class Backbone(nn.Module):
    """Features at strides 4, 8, 16 and 32 with 2, 4, 6 and 8 times `width` channels; `depths` residual blocks each.

    Raises ValueError for other than three depths, or for a width or a depth below its least.
    """

    def __init__(self, width: int, depths: Sequence[int] = DEPTHS) -> None:
        super().__init__()
        if width < 1 or len(depths) != 3 or min(depths) < 0:
            raise ValueError(
                f"expected a width of 1 at least and depths at strides 8, 16 and 32, got {width} and {list(depths)}"
            )
        self.stem = nn.Sequential(ConvNormAct(3, width, stride=2), ConvNormAct(width, 2 * width, stride=2))
        self.stages = nn.ModuleList()
        channels = 2 * width
        for outputs, blocks in zip((4 * width, 6 * width, 8 * width), depths, strict=True):
            body = [Residual(outputs) for _ in range(blocks)]
            self.stages.append(nn.Sequential(ConvNormAct(channels, outputs, stride=2), *body))
            channels = outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features, finest first."""
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's generator as if it had this seed, and leave it as it was."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        yield


def initialize_(module: nn.Module) -> None:
    """Weights for ReLU networks. Source: He et al., arXiv:1502.01852."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
