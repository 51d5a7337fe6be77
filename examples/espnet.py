"""ESPNet: a segmentation network of 0.36 M parameters for embedded use, as an example of bringing one's own module.

Each block reduces its input to a few channels, looks at it through five dilated convolutions at once, and adds the
views up from the narrowest to the widest before it joins them. The attributes carry the names of the authors'
published weights, so that those load as they are.

Source: Mehta, Rastegari, Caspi, Shapiro, Hajishirzi: ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for
Semantic Segmentation, ECCV 2018, arXiv:1803.06815.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DILATIONS = (1, 2, 4, 8, 16)
BN_EPS = 1e-3
IMAGE_CHANNELS = 3


def espnet(classes: int = 12, p: int = 2, q: int = 8, width: float = 1.0, seed: int = 0) -> nn.Module:
    """ESPNet with `p` pyramid blocks at a quarter of the resolution and `q` at an eighth.

    Takes (N, 3, H, W) float32, BGR, H and W multiples of 8; returns (N, classes, H, W) logits.

    Args:
        classes: of the output, which the decoder's channels follow, too.
        p: blocks at a quarter of the resolution.
        q: blocks at an eighth.
        width: factor of the encoder's channels; the published weights are of width 1.
        seed: of the weights it begins with.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return EspNet(classes, p, q, (round(16 * width), round(64 * width), round(128 * width)))


class Conv(nn.Module):
    """A convolution without bias that keeps the size, or halves it with stride 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return self.conv(x)


class NormAct(nn.Module):
    """Batch normalization and a PReLU with one slope a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same."""
        return self.act(self.bn(x))


class ConvNormAct(nn.Module):
    """A 3x3 convolution, batch normalization and a PReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return self.act(self.bn(self.conv(x)))


class Pyramid(nn.Module):
    """The efficient spatial pyramid: reduce, look at five dilations, add up hierarchically, join.

    With stride 2 the reduction is a 3x3 convolution that halves the size, and there is no residual. Source: section 3.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, residual: bool = True) -> None:
        super().__init__()
        width = outputs // len(DILATIONS)
        first = outputs - (len(DILATIONS) - 1) * width  # the narrowest view takes the channels that are left over
        self.c1 = Conv(inputs, width, kernel=1 if stride == 1 else 3, stride=stride)
        self.d1 = Conv(width, first, 3, dilation=1)
        self.d2 = Conv(width, width, 3, dilation=2)
        self.d4 = Conv(width, width, 3, dilation=4)
        self.d8 = Conv(width, width, 3, dilation=8)
        self.d16 = Conv(width, width, 3, dilation=16)
        self.residual = residual and stride == 1
        # The published weights name the two layers `bn` and `act` where it strides, and `bn.bn` and `bn.act` elsewhere.
        self.bn = NormAct(outputs) if stride == 1 else nn.BatchNorm2d(outputs, eps=BN_EPS)
        self.act = nn.Identity() if stride == 1 else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        reduced = self.c1(x)
        # Sums of neighbouring rates hide the grid that a large dilation alone would leave in the output (figure 2).
        two = self.d2(reduced)
        four = two + self.d4(reduced)
        eight = four + self.d8(reduced)
        sixteen = eight + self.d16(reduced)
        joined = torch.cat([self.d1(reduced), two, four, eight, sixteen], dim=1)
        return self.act(self.bn(x + joined if self.residual else joined))


class Encoder(nn.Module):
    """Three resolutions; each one but the last also sees the image, shrunk. Source: figure 4c."""

    def __init__(self, classes: int, p: int, q: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        half, quarter, eighth = channels
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1)
        self.level1 = ConvNormAct(IMAGE_CHANNELS, half, stride=2)
        self.b1 = NormAct(half + IMAGE_CHANNELS)
        self.level2_0 = Pyramid(half + IMAGE_CHANNELS, quarter, stride=2)
        self.level2 = nn.Sequential(*(Pyramid(quarter, quarter) for _ in range(p)))
        self.b2 = NormAct(2 * quarter + IMAGE_CHANNELS)
        self.level3_0 = Pyramid(2 * quarter + IMAGE_CHANNELS, eighth, stride=2)
        self.level3 = nn.Sequential(*(Pyramid(eighth, eighth) for _ in range(q)))
        self.b3 = NormAct(2 * eighth)
        self.classifier = Conv(2 * eighth, classes, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> features at H / 2 (19 channels at width 1), at H / 4 (131), and logits at H / 8."""
        half = self.shrink(image)
        quarter = self.shrink(half)
        level1 = self.b1(torch.cat([self.level1(image), half], dim=1))
        entry2 = self.level2_0(level1)
        level2 = self.b2(torch.cat([self.level2(entry2), entry2, quarter], dim=1))
        entry3 = self.level3_0(level2)
        level3 = self.b3(torch.cat([entry3, self.level3(entry3)], dim=1))
        return level1, level2, self.classifier(level3)


class EspNet(nn.Module):
    """The encoder, and a light decoder that doubles the logits three times. Source: figure 4d."""

    def __init__(self, classes: int, p: int, q: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder = Encoder(classes, p, q, channels)
        self.br = nn.BatchNorm2d(classes, eps=BN_EPS)
        self.up_l3 = nn.Sequential(_double(classes))
        self.level3_C = Conv(2 * channels[1] + IMAGE_CHANNELS, classes, 1)
        self.combine_l2_l3 = nn.Sequential(NormAct(2 * classes), Pyramid(2 * classes, classes, residual=False))
        self.up_l2 = nn.Sequential(_double(classes), NormAct(classes))
        self.conv = ConvNormAct(channels[0] + IMAGE_CHANNELS + classes, classes)
        self.classifier = _double(classes)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes, H, W) logits."""
        level1, level2, coarse = self.encoder(image)
        coarse = self.up_l3(self.br(coarse))
        middle = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(level2), coarse], dim=1)))
        return self.classifier(self.conv(torch.cat([middle, level1], dim=1)))


def _double(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)
