"""Small but real architectures: every construction that quantization meets, in plain torch.

`build(name)` gives a seeded module in eval mode that takes SHAPE; its statistics are not trivial.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

SHAPE = (1, 3, 64, 64)


def build(name):
    """A network of the zoo, seeded, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = ARCHITECTURES[name]()
        _settle_(module)
    return module.eval()


def _settle_(module):
    """Statistics, scales and slopes as training leaves them: none is 0 or 1."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.6, 1.4)
            nn.init.normal_(part.bias, 0, 0.2)
            nn.init.normal_(part.running_mean, 0, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
        elif isinstance(part, nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(part.weight, 0.6, 1.4)
            nn.init.normal_(part.bias, 0, 0.2)
        elif isinstance(part, nn.PReLU):
            nn.init.uniform_(part.weight, 0.05, 0.4)


class ConvBn(nn.Sequential):
    """Convolution, batch normalization, activation."""

    def __init__(self, inputs, outputs, kernel=3, stride=1, groups=1, act=nn.ReLU, dilation=1):
        padding = dilation * (kernel - 1) // 2
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
        parts = [("conv", conv), ("bn", nn.BatchNorm2d(outputs))]
        super().__init__()
        for name, part in [*parts, *([("act", act())] if act else [])]:
            self.add_module(name, part)


class Head(nn.Sequential):
    """Global pooling and a linear classifier."""

    def __init__(self, channels, classes=10):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


# --- residual networks


class Basic(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = ConvBn(inputs, outputs, stride=stride)
        self.conv2 = ConvBn(outputs, outputs, act=None)
        self.down = ConvBn(inputs, outputs, 1, stride, act=None) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x):
        return F.relu(self.conv2(self.conv1(x)) + self.down(x))


def residual():
    """ResNet: identity and projection shortcuts."""
    return nn.Sequential(
        ConvBn(3, 16, 7, 2),
        nn.MaxPool2d(3, 2, 1),
        Basic(16, 16),
        Basic(16, 16),
        Basic(16, 32, 2),
        Basic(32, 32),
        Head(32),
    )


class PreAct(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.down = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x):
        active = torch.relu(self.bn1(x))
        skip = x if self.down is None else self.down(active)
        return skip + self.conv2(torch.relu(self.bn2(self.conv1(active))))


def preactivation():
    """ResNet v2: normalization and activation before the convolution, which nothing folds."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        PreAct(16, 16),
        PreAct(16, 32, 2),
        PreAct(32, 32),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Head(32),
    )


class SqueezeExcite(nn.Module):
    def __init__(self, channels, reduced, act=nn.ReLU, gate=nn.Sigmoid):
        super().__init__()
        self.reduce, self.act = nn.Conv2d(channels, reduced, 1), act()
        self.expand, self.gate = nn.Conv2d(reduced, channels, 1), gate()

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.expand(self.act(self.reduce(pooled))))


class Bottleneck(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.conv1, self.conv2 = ConvBn(channels, width, 1), ConvBn(width, width, 3)
        self.conv3 = ConvBn(width, channels, 1, act=None)
        self.se = SqueezeExcite(channels, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.se(self.conv3(self.conv2(self.conv1(x))))
        y += x
        return self.act(y)


def bottleneck_se():
    """SE-ResNet: bottlenecks whose output is gated by channel."""
    return nn.Sequential(ConvBn(3, 32, 3, 2), Bottleneck(32, 8), Bottleneck(32, 8), Head(32))


# --- mobile networks


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride=1, expand=4, act=nn.ReLU6, se=False):
        super().__init__()
        hidden = inputs * expand
        parts = [ConvBn(inputs, hidden, 1, act=act), ConvBn(hidden, hidden, 3, stride, hidden, act=act)]
        parts += [SqueezeExcite(hidden, 8, gate=nn.Hardsigmoid)] if se else []
        self.block = nn.Sequential(*parts, ConvBn(hidden, outputs, 1, act=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.block(x) if self.residual else self.block(x)


def mobilenet_v2():
    """Inverted residuals with depthwise convolutions and ReLU6, linear bottlenecks."""
    return nn.Sequential(
        ConvBn(3, 16, 3, 2, act=nn.ReLU6), Inverted(16, 16, expand=1), Inverted(16, 24, 2), Inverted(24, 24),
        Inverted(24, 24), ConvBn(24, 64, 1, act=nn.ReLU6), Head(64),
    )  # fmt: skip


def mobilenet_v3():
    """Inverted residuals with HardSwish, and squeeze-and-excite inside."""
    return nn.Sequential(
        ConvBn(3, 16, 3, 2, act=nn.Hardswish), Inverted(16, 16, se=True),
        Inverted(16, 24, 2, act=nn.Hardswish, se=True),
        Inverted(24, 24, act=nn.Hardswish, se=True), ConvBn(24, 64, 1, act=nn.Hardswish), Head(64),
    )  # fmt: skip


# --- detectors


class C2f(nn.Module):
    """Source: YOLOv8."""

    def __init__(self, inputs, outputs, repeats=2, shortcut=True):
        super().__init__()
        self.half = outputs // 2
        self.cv1 = ConvBn(inputs, outputs, 1, act=nn.SiLU)
        self.cv2 = ConvBn(self.half * (2 + repeats), outputs, 1, act=nn.SiLU)
        self.m = nn.ModuleList(
            nn.Sequential(ConvBn(self.half, self.half, act=nn.SiLU), ConvBn(self.half, self.half, act=nn.SiLU))
            for _ in range(repeats)
        )
        self.shortcut = shortcut

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(parts[-1] + block(parts[-1]) if self.shortcut else block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


def c2f():
    """YOLOv8's split, chain of bottlenecks, and concat of all of them."""
    return nn.Sequential(
        ConvBn(3, 16, 3, 2, act=nn.SiLU),
        C2f(16, 32),
        ConvBn(32, 32, 3, 2, act=nn.SiLU),
        C2f(32, 32, shortcut=False),
        Head(32),
    )


class Sppf(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.cv1, self.cv2 = (
            ConvBn(channels, channels // 2, 1, act=nn.SiLU),
            ConvBn(channels * 2, channels, 1, act=nn.SiLU),
        )
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat((x, y1, y2, self.m(y2)), 1))


def sppf():
    """Chained max pools, all of them joined."""
    return nn.Sequential(
        ConvBn(3, 16, 3, 2, act=nn.SiLU), ConvBn(16, 32, 3, 2, act=nn.SiLU), Sppf(32), nn.Conv2d(32, 8, 1)
    )


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.p3 = ConvBn(3, 16, 3, 2), ConvBn(16, 24, 3, 2)
        self.p4, self.p5 = ConvBn(24, 32, 3, 2), ConvBn(32, 48, 3, 2)
        self.lateral = nn.ModuleList(nn.Conv2d(n, 24, 1) for n in (24, 32, 48))
        self.smooth = nn.ModuleList(nn.Conv2d(24, 24, 3, padding=1) for _ in range(2))
        self.down = nn.ModuleList(ConvBn(24, 24, 3, 2) for _ in range(2))
        self.fuse = nn.ModuleList(ConvBn(48, 24) for _ in range(2))

    def forward(self, x):
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        l3, l4, l5 = (conv(p) for conv, p in zip(self.lateral, (p3, p4, self.p5(p4))))  # noqa: B905
        l4 = l4 + F.interpolate(l5, scale_factor=2.0, mode="nearest")
        l3 = l3 + F.interpolate(l4, scale_factor=2.0, mode="nearest")
        n3, m4 = self.smooth[0](l3), self.smooth[1](l4)
        n4 = self.fuse[0](torch.cat([self.down[0](n3), m4], 1))
        n5 = self.fuse[1](torch.cat([self.down[1](n4), l5], 1))
        return n3, n4, n5


class Detector(nn.Module):
    """Three scales, decoupled heads, distances as a distribution (DFL)."""

    def __init__(self, classes=4, bins=4):
        super().__init__()
        self.neck, self.bins = Pyramid(), bins
        self.boxes = nn.ModuleList(nn.Sequential(ConvBn(24, 16), nn.Conv2d(16, 4 * bins, 1)) for _ in range(3))
        self.scores = nn.ModuleList(nn.Sequential(ConvBn(24, 16), nn.Conv2d(16, classes, 1)) for _ in range(3))
        self.dfl = nn.Conv2d(bins, 1, 1, bias=False)
        self.dfl.weight.data = torch.arange(bins, dtype=torch.float32).reshape(1, bins, 1, 1)

    def forward(self, x):
        maps = self.neck(x)
        outputs = []
        for level, feature in enumerate(maps):
            joined = torch.cat([self.boxes[level](feature), self.scores[level](feature)], 1)
            outputs.append(joined.flatten(2))
        boxes, scores = torch.cat(outputs, 2).split([4 * self.bins, 4], 1)
        shares = boxes.view(-1, 4, self.bins, 336).transpose(1, 2).softmax(1)
        return torch.cat([self.dfl(shares).view(-1, 4, 336), scores.sigmoid()], 1)


# --- segmenters


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(ConvBn(3, 16, 3, 2), ConvBn(16, 32, 3, 2))
        self.up1, self.bn1 = nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.up2 = nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = F.relu(self.bn1(self.up1(self.encoder(x))))
        return self.last(F.leaky_relu(self.up2(x), 0.1))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Sequential(ConvBn(3, 8), ConvBn(8, 8)), nn.Sequential(ConvBn(8, 16), ConvBn(16, 16))
        self.bottom = nn.Sequential(ConvBn(16, 32), ConvBn(32, 32))
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.conv2, self.conv1 = ConvBn(32, 16), ConvBn(24, 8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.conv2(torch.cat([two, self.up2(self.bottom(F.max_pool2d(two, 2)))], dim=1))
        return self.last(self.conv1(torch.cat([self.up1(x), one], dim=1)))


class Aspp(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(ConvBn(3, 16, 3, 2), ConvBn(16, 32, 3, 2))
        self.views = nn.ModuleList([ConvBn(32, 16, 1), ConvBn(32, 16, 3, dilation=2), ConvBn(32, 16, 3, dilation=4)])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBn(32, 16, 1))
        self.project, self.last = ConvBn(64, 16, 1), nn.Conv2d(16, 6, 1)

    def forward(self, x):
        size = x.shape[-2:]
        x = self.stem(x)
        image = F.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = self.project(torch.cat([*(view(x) for view in self.views), image], 1))
        return F.interpolate(self.last(x), size=size, mode="bilinear", align_corners=False)


class PixelShuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.mid = nn.Conv2d(3, 16, 5, 1, 2), nn.Conv2d(16, 16, 3, 1, 1)
        self.act1, self.act2 = nn.PReLU(16), nn.PReLU()
        self.last, self.up = nn.Conv2d(16, 12, 3, 1, 1), nn.PixelShuffle(2)

    def forward(self, x):
        y = self.act1(self.first(x))
        return torch.clamp(self.up(self.last(self.act2(self.mid(y)) + y)), 0, 1)


# --- attention


class Attention(nn.Module):
    def __init__(self, channels=32, heads=4):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x):
        n, t, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = ((q @ k.transpose(-2, -1)) / math.sqrt(c // self.heads)).softmax(-1)
        return x + self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))


class AttentionMap(nn.Module):
    """Self-attention over the pixels of a feature map, and a gated MLP."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(ConvBn(3, 16, 3, 4), ConvBn(16, 32, 3, 2))
        self.attention = Attention()
        self.norm = nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.last = nn.Conv2d(32, 5, 1)

    def forward(self, x):
        x = self.stem(x)
        n, c, h, w = x.shape
        tokens = self.attention(x.flatten(2).transpose(1, 2))
        tokens = tokens + self.mlp(self.norm(tokens))
        return self.last(tokens.transpose(1, 2).reshape(n, c, h, w))


class ConvNextBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.dw, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.pw1, self.act, self.pw2 = nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pw2(self.act(self.pw1(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext():
    """Depthwise 7x7, LayerNorm over channels, an MLP with GELU, layer scale."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), ConvNextBlock(16), nn.Conv2d(16, 32, 2, 2), ConvNextBlock(32), Head(32)
    )


# --- dense and hierarchical ones


class Dense(nn.Module):
    def __init__(self, inputs, growth, layers):
        super().__init__()
        widths = [inputs + growth * i for i in range(layers)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in widths)
        self.convs = nn.ModuleList(nn.Conv2d(n, growth, 3, padding=1, bias=False) for n in widths)

    def forward(self, x):
        features = [x]
        for norm, conv in zip(self.norms, self.convs):  # noqa: B905
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return torch.cat(features, 1)


def densenet():
    """Every layer reads all those before; a transition with average pooling."""
    return nn.Sequential(
        ConvBn(3, 16, 3, 2), Dense(16, 8, 3), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1), nn.AvgPool2d(2),
        Dense(20, 8, 2), Head(36),
    )  # fmt: skip


class Dilated(nn.Module):
    """ESPNet's efficient spatial pyramid: dilated views added up hierarchically, then joined."""

    def __init__(self, inputs, outputs):
        super().__init__()
        width = outputs // 4
        self.reduce = nn.Conv2d(inputs, width, 1, bias=False)
        self.views = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 4, 8))
        self.bn, self.act = nn.BatchNorm2d(outputs), nn.PReLU(outputs)

    def forward(self, x):
        reduced = self.reduce(x)
        one, two, four, eight = (view(reduced) for view in self.views)
        four = two + four
        return self.act(self.bn(x + torch.cat([one, two, four, four + eight], 1)))


class EspLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.shrink = ConvBn(3, 29, 3, 2, act=lambda: nn.PReLU(29)), nn.AvgPool2d(3, 2, 1)
        self.mid, self.blocks = nn.Conv2d(32, 32, 3, 2, 1), nn.Sequential(Dilated(32, 32), Dilated(32, 32))
        self.bn, self.act = nn.BatchNorm2d(64), nn.PReLU(64)
        self.last, self.up = nn.Conv2d(64, 5, 1), nn.ConvTranspose2d(5, 5, 2, 2, bias=False)

    def forward(self, x):
        entry = self.mid(torch.cat([self.first(x), self.shrink(x)], 1))
        joined = self.act(self.bn(torch.cat([entry, self.blocks(entry)], 1)))
        return self.up(self.last(joined))


class Grouped(nn.Module):
    """Channel shuffle, grouped convolutions, ELU, padding and a cropped skip; ShuffleNet and U-Net without padding."""

    def __init__(self):
        super().__init__()
        self.first = ConvBn(3, 16, 3, 2, act=nn.ELU)
        self.left, self.right = ConvBn(8, 8, 3, groups=2, act=nn.Softplus), ConvBn(8, 8, 3, groups=4, act=nn.Mish)
        self.pad, self.mid = nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3)
        self.norm, self.last = nn.GroupNorm(4, 16), nn.Conv2d(16, 4, 3)

    def forward(self, x):
        x = self.first(x)
        left, right = torch.split(x, 8, 1)
        y = torch.cat([self.left(left), self.right(right)], 1)
        n, c, h, w = y.shape
        y = y.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = torch.tanh(self.norm(self.mid(self.pad(y))))
        y = F.pad(y, (1, 1, 1, 1)) * torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.last(y[:, :, 1:-1, 1:-1] + x).amax(1, keepdim=True)


ARCHITECTURES = {
    "aspp": Aspp,
    "attention": AttentionMap,
    "bottleneck_se": bottleneck_se,
    "c2f": c2f,
    "convnext": convnext,
    "densenet": densenet,
    "detector": Detector,
    "espnet_like": EspLike,
    "fpn_pan": Pyramid,
    "grouped": Grouped,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "pixel_shuffle": PixelShuffle,
    "preactivation": preactivation,
    "residual": residual,
    "sppf": sppf,
    "transposed_decoder": Decoder,
    "unet": UNet,
}
