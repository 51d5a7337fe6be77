"""More small architectures: what couples channels in the detectors, segmenters and backbones that people prune.

Those of the quantization tests' zoo come on top: `ARCHITECTURES` holds both. `build` and SHAPE are as there.
"""

import importlib.util
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def _quantization_zoo():
    path = Path(__file__).parents[1] / "quant" / "zoo.py"
    spec = importlib.util.spec_from_file_location("quantization_zoo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_small = _quantization_zoo()
ConvBn, Head, SqueezeExcite, Inverted, SHAPE = (
    _small.ConvBn, _small.Head, _small.SqueezeExcite, _small.Inverted, _small.SHAPE
)  # fmt: skip


def build(name):
    """A network of either zoo, seeded, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = ARCHITECTURES[name]()
        _small._settle_(module)
    return module.eval()


def chain(*parts):
    return nn.Sequential(*parts)


# --- classifiers


class ShuffleUnit(nn.Module):
    """Source: ShuffleNetV2. Half of the channels pass by; then the halves are shuffled."""

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.branch = chain(ConvBn(half, half, 1), ConvBn(half, half, 3, groups=half, act=None), ConvBn(half, half, 1))

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), dim=1)
        n, c, h, w = x.size()
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


class ShuffleDown(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        half = outputs // 2
        self.one = chain(ConvBn(inputs, inputs, 3, 2, inputs, act=None), ConvBn(inputs, half, 1))
        self.two = chain(ConvBn(inputs, half, 1), ConvBn(half, half, 3, 2, half, act=None), ConvBn(half, half, 1))

    def forward(self, x):
        x = torch.cat((self.one(x), self.two(x)), dim=1)
        n, c, h, w = x.size()
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def shufflenet_v2():
    """Split, shuffle, split again: the more often, the fewer channels are free to go."""
    return chain(
        ConvBn(3, 16, 3, 2), ShuffleDown(16, 32), ShuffleUnit(32), ShuffleUnit(32), ConvBn(32, 48, 1), Head(48)
    )


class ShuffleGrouped(nn.Module):
    """Source: ShuffleNet. Grouped 1x1 convolutions around a shuffle."""

    def __init__(self, channels, groups):
        super().__init__()
        self.groups = groups
        self.one, self.two = (
            ConvBn(channels, channels, 1, groups=groups),
            ConvBn(channels, channels, 1, groups=groups, act=None),
        )
        self.depthwise = ConvBn(channels, channels, 3, groups=channels, act=None)

    def forward(self, x):
        y = self.one(x)
        n, c, h, w = y.shape
        y = y.reshape(n, self.groups, c // self.groups, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
        return F.relu(x + self.two(self.depthwise(y)))


def shufflenet():
    return chain(ConvBn(3, 24, 3, 2), ShuffleGrouped(24, 3), ShuffleGrouped(24, 3), Head(24))


class Ghost(nn.Module):
    """Source: GhostNet. Half of the channels are computed from the other half."""

    def __init__(self, inputs, outputs, act=nn.ReLU):
        super().__init__()
        first = math.ceil(outputs / 2)
        self.outputs = outputs
        self.primary, self.cheap = ConvBn(inputs, first, 1, act=act), ConvBn(first, first, 3, groups=first, act=act)

    def forward(self, x):
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], 1)[:, : self.outputs]


class GhostBlock(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.one, self.two, self.se = Ghost(channels, hidden), Ghost(hidden, channels, None), SqueezeExcite(hidden, 8)

    def forward(self, x):
        return x + self.two(self.se(self.one(x)))


def ghostnet():
    return chain(ConvBn(3, 15, 3, 2), GhostBlock(15, 30), GhostBlock(15, 24), Head(15))


class GroupedBottleneck(nn.Module):
    """Source: ResNeXt, RegNet."""

    def __init__(self, channels, width, groups):
        super().__init__()
        self.a, self.b = ConvBn(channels, width, 1), ConvBn(width, width, 3, groups=groups)
        self.se, self.c = SqueezeExcite(width, 6), ConvBn(width, channels, 1, act=None)

    def forward(self, x):
        return F.relu(x + self.c(self.se(self.b(self.a(x)))))


def regnet():
    """Few wide groups, then many narrow ones."""
    return chain(ConvBn(3, 16, 3, 2), GroupedBottleneck(16, 24, 2), GroupedBottleneck(16, 32, 16), Head(16))


class MbConv(nn.Module):
    """Source: EfficientNet."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        hidden = 4 * inputs
        self.expand = ConvBn(inputs, hidden, 1, act=nn.SiLU)
        self.depthwise = ConvBn(hidden, hidden, 5, stride, hidden, act=nn.SiLU)
        self.se, self.project = SqueezeExcite(hidden, 5, nn.SiLU), ConvBn(hidden, outputs, 1, act=None)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.project(self.se(self.depthwise(self.expand(x))))
        return x + y if self.skip else y


def efficientnet():
    return chain(ConvBn(3, 12, 3, 2, act=nn.SiLU), MbConv(12, 12, 1), MbConv(12, 20, 2), MbConv(20, 20, 1), Head(20))


class Vgg(nn.Module):
    """Convolutions, then linear layers on the flattened map, through view(b, -1)."""

    def __init__(self):
        super().__init__()
        self.features = chain(ConvBn(3, 12, 3, 2), nn.MaxPool2d(2), ConvBn(12, 20, 3, 2), nn.AdaptiveAvgPool2d(2))
        self.classifier = chain(nn.Linear(80, 32), nn.ReLU(), nn.Dropout(), nn.BatchNorm1d(32), nn.Linear(32, 10))

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class Inception(nn.Module):
    """Branches of several shapes, joined; a pooled one among them."""

    def __init__(self):
        super().__init__()
        self.stem = ConvBn(3, 16, 3, 2)
        self.one, self.three = ConvBn(16, 8, 1), chain(ConvBn(16, 6, 1), ConvBn(6, 12, 3))
        self.long = chain(
            nn.Conv2d(16, 7, (1, 7), padding=(0, 3)), nn.ReLU(), nn.Conv2d(7, 9, (7, 1), padding=(3, 0)), nn.ReLU()
        )
        self.pool, self.head = chain(nn.AvgPool2d(3, 1, 1), ConvBn(16, 5, 1)), Head(34)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([self.one(x), self.three(x), self.long(x), self.pool(x)], 1))


class RepVgg(nn.Module):
    """Three branches added: 3x3, 1x1, and a bare normalization."""

    def __init__(self, channels):
        super().__init__()
        self.three, self.one = ConvBn(channels, channels, 3, act=None), ConvBn(channels, channels, 1, act=None)
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(self.three(x) + self.one(x) + self.identity(x))


def repvgg():
    return chain(ConvBn(3, 16, 3, 2), RepVgg(16), ConvBn(16, 24, 3, 2), RepVgg(24), Head(24))


class Cbam(nn.Module):
    """Attention by channel, and by place: the mean and the maximum over channels feed a convolution."""

    def __init__(self, channels):
        super().__init__()
        self.shared = chain(nn.Conv2d(channels, 6, 1, bias=False), nn.ReLU(), nn.Conv2d(6, channels, 1, bias=False))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        x = x * torch.sigmoid(self.shared(F.adaptive_avg_pool2d(x, 1)) + self.shared(F.adaptive_max_pool2d(x, 1)))
        views = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(self.spatial(views))


def cbam():
    return chain(ConvBn(3, 16, 3, 2), Cbam(16), ConvBn(16, 24, 3, 2), Head(24))


class Eca(nn.Module):
    """Source: ECA-Net. A small kernel slides along the pooled channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * y.view(x.shape[0], -1, 1, 1).expand_as(x)


def eca():
    return chain(ConvBn(3, 16, 3, 2), Eca(), ConvBn(16, 24, 3, 2), Eca(), Head(24))


class SelectiveKernel(nn.Module):
    """Source: SKNet, ResNeSt. For each channel a softmax over two branches weights them."""

    def __init__(self, channels):
        super().__init__()
        self.branches = nn.ModuleList(ConvBn(channels, channels, 3, dilation=d) for d in (1, 2))
        self.reduce, self.select = ConvBn(channels, 6, 1), nn.Conv2d(6, 2 * channels, 1, bias=False)

    def forward(self, x):
        paths = torch.stack([branch(x) for branch in self.branches], dim=1)
        weights = self.select(self.reduce(paths.sum(1).mean((2, 3), keepdim=True)))
        n, c = weights.shape[:2]
        return (paths * weights.view(n, 2, c // 2, 1, 1).softmax(1)).sum(1)


def selective_kernel():
    return chain(ConvBn(3, 16, 3, 2), SelectiveKernel(16), ConvBn(16, 12, 3, 2), SelectiveKernel(12), Head(12))


class GroupNormBlock(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)

    def forward(self, x):
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def group_norm():
    """Many narrow groups, few wide ones, one for all, one each."""
    blocks = [GroupNormBlock(16, groups) for groups in (8, 2, 1, 16)]
    widths = [ConvBn(16, 16, 1) for _ in blocks]
    return chain(ConvBn(3, 16, 3, 2), *(part for pair in zip(blocks, widths, strict=True) for part in pair), Head(16))


class Recurrent(nn.Module):
    """One block used three times, and two linear layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.shrink = ConvBn(3, 16, 3, 2), ConvBn(16, 16), ConvBn(16, 12, 3, 2)
        self.left, self.right, self.last = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 7)
        self.right.weight = self.left.weight

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = x + self.block(x)
        pooled = self.shrink(x).mean((2, 3))
        return self.last(F.relu(self.right(F.relu(self.left(pooled)))))


class ZeroPadShortcut(nn.Module):
    """ResNet's option A: the shortcut takes every second pixel and is filled up with channels of zeros."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = ConvBn(3, 16, 3, 2), ConvBn(16, 32, 3, 2), ConvBn(32, 32, act=None)
        self.head = Head(32)

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.relu(self.two(self.one(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))))


class Strided(nn.Module):
    """Every second channel, the rest, reversed, and some picked by number."""

    def __init__(self):
        super().__init__()
        self.stem, self.even = ConvBn(3, 24, 3, 2), ConvBn(12, 8)
        self.flipped, self.picked, self.head = ConvBn(24, 8), ConvBn(5, 8), Head(24)
        self.register_buffer("numbers", torch.tensor([1, 4, 4, 9, 20]))

    def forward(self, x):
        x = self.stem(x)
        picked = self.picked(torch.index_select(x, 1, self.numbers))
        return self.head(torch.cat([self.even(x[:, ::2]), self.flipped(torch.flip(x, [1])), picked], 1))


# --- detectors


class Yolov5C3(nn.Module):
    """Source: YOLOv5."""

    def __init__(self, inputs, outputs, shortcut=True):
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2 = ConvBn(inputs, half, 1, act=nn.SiLU), ConvBn(inputs, half, 1, act=nn.SiLU)
        self.m1, self.m2 = ConvBn(half, half, 1, act=nn.SiLU), ConvBn(half, half, 3, act=nn.SiLU)
        self.cv3, self.shortcut = ConvBn(2 * half, outputs, 1, act=nn.SiLU), shortcut

    def forward(self, x):
        y = self.cv1(x)
        z = self.m2(self.m1(y))
        return self.cv3(torch.cat((y + z if self.shortcut else z, self.cv2(x)), 1))


class Yolov5(nn.Module):
    """C3, SPPF, a pyramid, and the decoding of anchors: five dimensions, slices that are scaled and joined again."""

    def __init__(self, classes=4):
        super().__init__()
        act = nn.SiLU
        self.outputs = classes + 5
        self.stem = chain(ConvBn(3, 12, 6, 2, act=act), ConvBn(12, 16, 3, 2, act=act), Yolov5C3(16, 16))
        self.deep = chain(ConvBn(16, 24, 3, 2, act=act), Yolov5C3(24, 24), _small.Sppf(24))
        self.lateral, self.fuse = ConvBn(24, 16, 1, act=act), Yolov5C3(32, 16, shortcut=False)
        self.down, self.last = ConvBn(16, 16, 3, 2, act=act), Yolov5C3(32, 24, shortcut=False)
        self.detect = nn.ModuleList([nn.Conv2d(16, 2 * self.outputs, 1), nn.Conv2d(24, 2 * self.outputs, 1)])
        self.register_buffer("anchors", torch.rand(2, 1, 2, 1, 1, 2) * 20)

    def forward(self, x):
        shallow = self.stem(x)
        lateral = self.lateral(self.deep(shallow))
        shallow = self.fuse(torch.cat([F.interpolate(lateral, scale_factor=2.0), shallow], 1))
        maps = shallow, self.last(torch.cat([self.down(shallow), lateral], 1))
        return torch.cat([self.decode(level, feature) for level, feature in enumerate(maps)], 1)

    def decode(self, level, feature):
        raw = self.detect[level](feature)
        bs, _, ny, nx = raw.shape
        y = raw.view(bs, 2, self.outputs, ny, nx).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
        grid = torch.stack(torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")[::-1], 2).float()
        xy, wh, conf = y.split((2, 2, self.outputs - 4), 4)
        xy, wh = (xy * 2 + grid - 0.5) * 8, (wh * 2) ** 2 * self.anchors[level]
        return torch.cat((xy, wh, conf), 4).view(bs, -1, self.outputs)


class Yolov8(nn.Module):
    """C2f, and the head without anchors: distances from a softmax over bins, through a fixed convolution."""

    def __init__(self, classes=4, bins=4):
        super().__init__()
        act = nn.SiLU
        self.classes, self.bins = classes, bins
        self.stem = chain(ConvBn(3, 12, 3, 2, act=act), ConvBn(12, 16, 3, 2, act=act), _small.C2f(16, 16, 1))
        self.deep = chain(ConvBn(16, 32, 3, 2, act=act), _small.C2f(32, 32, 2), _small.Sppf(32))
        self.up = _small.C2f(48, 16, 1, shortcut=False)
        self.boxes = nn.ModuleList(
            chain(ConvBn(n, 12, act=act), ConvBn(12, 12, act=act), nn.Conv2d(12, 4 * bins, 1)) for n in (16, 32)
        )
        self.scores = nn.ModuleList(
            chain(ConvBn(n, 10, act=act), ConvBn(10, 10, act=act), nn.Conv2d(10, classes, 1)) for n in (16, 32)
        )
        self.dfl = nn.Conv2d(bins, 1, 1, bias=False)
        self.dfl.weight.data = torch.arange(bins, dtype=torch.float32).reshape(1, bins, 1, 1)

    def forward(self, x):
        shallow = self.stem(x)
        deep = self.deep(shallow)
        maps = self.up(torch.cat([F.interpolate(deep, scale_factor=2.0), shallow], 1)), deep
        outputs = [torch.cat((self.boxes[i](m), self.scores[i](m)), 1) for i, m in enumerate(maps)]
        flat = torch.cat([y.view(y.shape[0], self.classes + 4 * self.bins, -1) for y in outputs], 2)
        boxes, scores = flat.split((self.bins * 4, self.classes), 1)
        b, _, a = boxes.shape
        distance = self.dfl(boxes.view(b, 4, self.bins, a).transpose(2, 1).softmax(1)).view(b, 4, a)
        points = torch.stack([torch.arange(a).float() % 16, torch.arange(a).float() // 16])[None]
        low, high = distance.chunk(2, 1)
        return torch.cat(((points - low + points + high) / 2, high + low, scores.sigmoid()), 1)


class Focus(nn.Module):
    """Source: YOLOX, YOLOv5. Every second pixel becomes a channel."""

    def __init__(self, outputs):
        super().__init__()
        self.conv = ConvBn(12, outputs, act=nn.SiLU)

    def forward(self, x):
        corners = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
        return self.conv(torch.cat(corners, dim=1))


class Yolox(nn.Module):
    """Focus, depthwise separable CSP blocks, decoupled heads whose three outputs are joined and transposed."""

    def __init__(self, classes=4):
        super().__init__()
        act = nn.SiLU
        self.stem = chain(Focus(12), self.separable(12, 16, 2), Yolov5C3(16, 16))
        self.deep = chain(self.separable(16, 24, 2), Yolov5C3(24, 24))
        self.stems = nn.ModuleList(ConvBn(n, 16, 1, act=act) for n in (16, 24))
        self.towers = nn.ModuleList(nn.ModuleList(self.separable(16, 16, 1) for _ in range(2)) for _ in range(2))
        self.preds = nn.ModuleList(nn.ModuleList(nn.Conv2d(16, n, 1) for n in (4, 1, classes)) for _ in range(2))

    @staticmethod
    def separable(inputs, outputs, stride):
        return chain(ConvBn(inputs, inputs, 3, stride, inputs, act=nn.SiLU), ConvBn(inputs, outputs, 1, act=nn.SiLU))

    def forward(self, x):
        shallow = self.stem(x)
        outputs = []
        for level, feature in enumerate((shallow, self.deep(shallow))):
            y = self.stems[level](feature)
            scores, boxes = (tower(y) for tower in self.towers[level])
            box, objectness, score = self.preds[level]
            outputs.append(torch.cat([box(boxes), objectness(boxes).sigmoid(), score(scores).sigmoid()], 1))
        flat = torch.cat([y.flatten(start_dim=2) for y in outputs], dim=2).permute(0, 2, 1)
        return torch.cat([(flat[..., :2] + 1) * 8, flat[..., 2:4].exp() * 8, flat[..., 4:]], -1)


class Ssd(nn.Module):
    """Source: SSD. A map is scaled to unit length before its head; heads are permuted, reshaped and joined."""

    def __init__(self, classes=4):
        super().__init__()
        self.classes = classes
        self.one = chain(ConvBn(3, 16, 3, 2), ConvBn(16, 24, 3, 2))
        self.two = chain(ConvBn(24, 12, 1), ConvBn(12, 32, 3, 2))
        self.scale = nn.Parameter(torch.rand(24) * 20)
        self.boxes = nn.ModuleList(nn.Conv2d(n, 3 * 4, 3, padding=1) for n in (24, 32))
        self.scores = nn.ModuleList(nn.Conv2d(n, 3 * classes, 3, padding=1) for n in (24, 32))

    def forward(self, x):
        one = self.one(x)
        scaled = self.scale.view(1, -1, 1, 1) * F.normalize(one)
        maps = scaled, self.two(one)
        boxes = [
            head(m).permute(0, 2, 3, 1).reshape(m.size(0), -1, 4) for m, head in zip(maps, self.boxes, strict=True)
        ]
        scores = [
            head(m).permute(0, 2, 3, 1).contiguous().view(m.size(0), -1, self.classes)
            for m, head in zip(maps, self.scores, strict=True)
        ]
        return {"boxes": torch.cat(boxes, 1), "scores": torch.cat(scores, 1).softmax(-1)}


class RetinaNet(nn.Module):
    """One head for all levels of a pyramid, with group normalization and a learned factor for each level."""

    def __init__(self, classes=3):
        super().__init__()
        self.classes = classes
        self.neck = _small.Pyramid()
        self.tower = chain(
            nn.Conv2d(24, 24, 3, padding=1), nn.GroupNorm(8, 24), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1), nn.ReLU()
        )
        self.score, self.box = nn.Conv2d(16, 2 * classes, 3, padding=1), nn.Conv2d(16, 2 * 4, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(n)) for n in (1.0, 1.5, 0.7))

    def forward(self, x):
        towers = [self.tower(level) for level in self.neck(x)]
        scores = [self.score(t).permute(0, 2, 3, 1).reshape(t.shape[0], -1, self.classes) for t in towers]
        boxes = [
            (self.box(t) * scale).permute(0, 2, 3, 1).reshape(t.shape[0], -1, 4)
            for t, scale in zip(towers, self.scales, strict=True)
        ]
        return torch.cat(scores, 1), torch.cat(boxes, 1)


class BiFpn(nn.Module):
    """Source: EfficientDet. Maps are added with learned weights, through separable convolutions."""

    def __init__(self, width=16):
        super().__init__()
        self.one, self.two, self.three = ConvBn(3, 12, 3, 2), ConvBn(12, 20, 3, 2), ConvBn(20, 28, 3, 2)
        self.lateral = nn.ModuleList(ConvBn(n, width, 1, act=None) for n in (12, 20, 28))
        self.weights = nn.ParameterList(nn.Parameter(torch.rand(n) + 0.5) for n in (2, 2, 3, 2))
        self.convs = nn.ModuleList(
            chain(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), ConvBn(width, width, 1))
            for _ in range(4)
        )
        self.last = nn.Conv2d(width, 5, 1)

    def fuse(self, index, *maps):
        weights = F.relu(self.weights[index])
        weights = weights / (weights.sum() + 1e-4)
        return self.convs[index](F.silu(sum(w * m for w, m in zip(weights, maps, strict=True))))

    def forward(self, x):
        one = self.one(x)
        two = self.two(one)
        p1, p2, p3 = (conv(m) for conv, m in zip(self.lateral, (one, two, self.three(two)), strict=True))
        m2 = self.fuse(0, p2, F.interpolate(p3, scale_factor=2))
        n1 = self.fuse(1, p1, F.interpolate(m2, scale_factor=2))
        n2 = self.fuse(2, p2, m2, F.max_pool2d(n1, 3, 2, 1))
        n3 = self.fuse(3, p3, F.max_pool2d(n2, 3, 2, 1))
        return [self.last(n) for n in (n1, n2, n3)]


class CenterNet(nn.Module):
    """An hourglass of depthwise transposed convolutions, several named outputs, a peak search by pooling."""

    def __init__(self):
        super().__init__()
        self.stem = chain(ConvBn(3, 12, 3, 2), ConvBn(12, 20, 3, 2))
        self.up = nn.ConvTranspose2d(20, 20, 4, 2, 1, groups=20, bias=False)
        self.grouped = nn.ConvTranspose2d(20, 12, 2, 2, groups=2)
        self.heads = nn.ModuleDict(
            {k: chain(ConvBn(12, 14), nn.Conv2d(14, n, 1)) for k, n in (("heat", 3), ("size", 2))}
        )

    def forward(self, x):
        y = F.relu(self.grouped(F.relu(self.up(self.stem(x)))))
        heat = self.heads["heat"](y).sigmoid()
        peaks = heat * (F.max_pool2d(heat, 3, 1, 1) == heat).float()
        # Not where they are: of peaks of one height the rounding decides.
        return {"best": peaks.flatten(1).topk(5)[0], "size": self.heads["size"](y)}


# --- segmenters


class BiSeNet(nn.Module):
    """Source: BiSeNet. A context path with attention by channel, a spatial path, their fusion."""

    def __init__(self, classes=5):
        super().__init__()
        self.spatial = chain(ConvBn(3, 12, 7, 2), ConvBn(12, 16, 3, 2))
        self.context = nn.ModuleList([chain(ConvBn(3, 12, 3, 4), ConvBn(12, 16, 3, 2)), ConvBn(16, 24, 3, 2)])
        self.refine = nn.ModuleList(self.attention(n, 16) for n in (16, 24))
        self.tail, self.fuse = ConvBn(24, 16, 1), ConvBn(32, 20, 1)
        self.gate = chain(nn.Conv2d(20, 6, 1), nn.ReLU(), nn.Conv2d(6, 20, 1), nn.Sigmoid())
        self.last = chain(ConvBn(20, 10), nn.Conv2d(10, classes, 1))

    @staticmethod
    def attention(inputs, outputs):
        gate = chain(nn.AdaptiveAvgPool2d(1), ConvBn(outputs, outputs, 1, act=nn.Sigmoid))
        return nn.ModuleList([ConvBn(inputs, outputs), gate])

    def refined(self, index, x):
        conv, gate = self.refine[index]
        y = conv(x)
        return y * gate(y)

    def forward(self, x):
        shallow = self.context[0](x)
        deep = self.context[1](shallow)
        tail = F.interpolate(self.tail(deep.mean((2, 3), keepdim=True)), size=deep.shape[2:])
        two = F.interpolate(self.refined(1, deep) + tail, size=shallow.shape[2:])
        spatial = self.spatial(x)
        context = F.interpolate(self.refined(0, shallow) + two, size=spatial.shape[2:], mode="bilinear")
        y = self.fuse(torch.cat([spatial, context], 1))
        y = y + y * self.gate(F.adaptive_avg_pool2d(y, 1))
        return F.interpolate(self.last(y), size=x.shape[2:], mode="bilinear", align_corners=True)


class HrNet(nn.Module):
    """Source: HRNet. Two resolutions that exchange what they see, joined at the end."""

    def __init__(self, classes=5):
        super().__init__()
        self.stem, self.down = ConvBn(3, 16, 3, 2), ConvBn(16, 24, 3, 2)
        self.high, self.low = (
            nn.ModuleList(_small.Basic(16, 16) for _ in range(2)),
            nn.ModuleList(_small.Basic(24, 24) for _ in range(2)),
        )
        self.to_low = nn.ModuleList(ConvBn(16, 24, 3, 2, act=None) for _ in range(2))
        self.to_high = nn.ModuleList(ConvBn(24, 16, 1, act=None) for _ in range(2))
        self.last = nn.Conv2d(40, classes, 1)

    def forward(self, x):
        high = self.stem(x)
        low = self.down(high)
        for i in range(2):
            a, b = self.high[i](high), self.low[i](low)
            high = F.relu(a + F.interpolate(self.to_high[i](b), scale_factor=2, mode="bilinear"))
            low = F.relu(b + self.to_low[i](a))
        return self.last(torch.cat([high, F.interpolate(low, scale_factor=2, mode="bilinear")], 1))


class SubPixel(nn.Module):
    """Pixel shuffles and unshuffles between convolutions, by torch and by hand."""

    def __init__(self):
        super().__init__()
        self.first, self.mid, self.wide = ConvBn(12, 16), ConvBn(16, 16), nn.Conv2d(16, 32, 3, padding=1)
        self.between, self.again = ConvBn(8, 10, act=lambda: nn.PReLU(10)), nn.Conv2d(10, 16, 3, 2, 1)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        y = self.first(F.pixel_unshuffle(x, 2))
        y = self.between(F.pixel_shuffle(self.wide(y + self.mid(y)), 2))
        y = self.again(y)
        n, c, h, w = y.shape
        y = y.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)
        return self.last(y) + x


class GatedRecurrent(nn.Module):
    """A convolutional GRU over two steps: gates are chunks of one convolution, the state starts as zeros."""

    def __init__(self, width=16):
        super().__init__()
        self.width = width
        self.encode, self.gates = ConvBn(3, 12, 3, 2), nn.Conv2d(12 + width, 2 * width, 3, padding=1)
        self.candidate, self.last = nn.Conv2d(12 + width, width, 3, padding=1), nn.Conv2d(width, 4, 1)

    def forward(self, x):
        y = self.encode(x)
        state = torch.zeros(x.size(0), self.width, *y.shape[2:])
        for _ in range(2):
            reset, update = self.gates(torch.cat([y, state], 1)).sigmoid().chunk(2, 1)
            new = self.candidate(torch.cat([y, reset * state], 1)).tanh()
            state = (1 - update) * state + update * new
        return self.last(state)


class CoordConv(nn.Module):
    """The coordinates of each pixel as two more channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.last = ConvBn(3, 12, 3, 2), ConvBn(14, 16), nn.Conv2d(16, 3, 1)

    def forward(self, x):
        y = self.stem(x)
        n, _, h, w = y.shape
        rows = torch.linspace(-1, 1, h).view(1, 1, h, 1).expand(n, 1, h, w)
        columns = torch.linspace(-1, 1, w).view(1, 1, 1, w).expand(n, 1, h, w)
        return self.last(self.conv(torch.cat([y, rows, columns], 1)))


# --- attention


class SeparateAttention(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(channels, channels) for _ in range(3))
        self.out = nn.Linear(channels, channels)

    def split(self, x):
        return x.view(x.size(0), -1, self.heads, x.size(2) // self.heads).transpose(1, 2)

    def forward(self, x):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        weights = F.softmax(torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.size(-1)), dim=-1)
        y = torch.matmul(weights, v).transpose(1, 2).contiguous().view(x.size(0), -1, x.size(2))
        return self.out(y)


class Vit(nn.Module):
    """Patches, a class token, learned positions, separate projections; GELU by its formula."""

    def __init__(self, width=24, heads=3):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attention = nn.ModuleList(SeparateAttention(width, heads) for _ in range(2))
        self.mlp = nn.ModuleList(chain(nn.Linear(width, 40), nn.GELU("tanh"), nn.Linear(40, width)) for _ in range(2))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.size(0), -1, -1), x], 1) + self.places
        for i in range(2):
            x = x + self.attention[i](self.norms[2 * i](x))
            x = x + self.mlp[i](self.norms[2 * i + 1](x))
        return self.head(self.norms[4](x)[:, 0])


class Detr(nn.Module):
    """torch's own attention and transformer layers; learned queries look at a map."""

    def __init__(self, width=24):
        super().__init__()
        self.backbone = chain(ConvBn(3, 16, 3, 4), ConvBn(16, 20, 3, 4), nn.Conv2d(20, width, 1))
        self.encoder = nn.TransformerEncoderLayer(width, 3, 32, batch_first=True)
        self.cross = nn.MultiheadAttention(width, 3, batch_first=True)
        self.queries, self.norm = nn.Parameter(torch.randn(1, 5, width)), nn.LayerNorm(width)
        self.score, self.box = nn.Linear(width, 4), chain(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        memory = self.encoder(self.backbone(x).flatten(2).permute(0, 2, 1))
        queries = self.queries.expand(x.shape[0], -1, -1)
        seen = self.norm(queries + self.cross(queries, memory, memory, need_weights=False)[0])
        return self.score(seen), self.box(seen).sigmoid()


class WindowAttention(nn.Module):
    """Source: Swin. Windows of a rolled map, one fused projection, a learned bias for each head, a mask."""

    def __init__(self, channels, heads, window, shift):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.randn(heads, window**2, window**2))
        mask = torch.zeros(4, window**2, window**2)
        mask[:, ::3, 1::2] = -100.0 if shift else 0.0
        self.register_buffer("mask", mask)

    def forward(self, x):
        b, h, w, c = x.shape
        s = self.window
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        x = x.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        qkv = self.qkv(x).reshape(x.shape[0], s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1) + self.bias.unsqueeze(0)
        weights = weights.view(b, -1, self.heads, s * s, s * s) + self.mask.unsqueeze(1).unsqueeze(0)
        weights = weights.view(-1, self.heads, s * s, s * s).softmax(-1)
        x = self.proj((weights @ v).transpose(1, 2).reshape(-1, s * s, c))
        x = x.view(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, c)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class Swin(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.attention = nn.ModuleList(WindowAttention(width, 2, 4, shift) for shift in (0, 2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.mlp = nn.ModuleList(chain(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)) for _ in range(2))
        self.merge_norm, self.merge = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        for i in range(2):
            x = x + self.attention[i](self.norms[2 * i](x))
            x = x + self.mlp[i](self.norms[2 * i + 1](x))
        corners = x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]
        x = self.merge(self.merge_norm(torch.cat(corners, -1)))
        return self.head(x.mean(dim=(1, 2)))


class SegFormer(nn.Module):
    """Attention to a reduced map, an MLP with a depthwise convolution in it, a decoder that joins the stages."""

    def __init__(self, widths=(12, 20)):
        super().__init__()
        self.embed = nn.ModuleList([nn.Conv2d(3, 12, 7, 4, 3), nn.Conv2d(12, 20, 3, 2, 1)])
        self.norm1, self.norm2, self.norm3 = (nn.ModuleList(nn.LayerNorm(n) for n in widths) for _ in range(3))
        self.reduce = nn.ModuleList(nn.Conv2d(n, n, 2, 2) for n in widths)
        self.q, self.proj = (nn.ModuleList(nn.Linear(n, n) for n in widths) for _ in range(2))
        self.kv = nn.ModuleList(nn.Linear(n, 2 * n) for n in widths)
        self.up, self.down = (
            nn.ModuleList(nn.Linear(n, 3 * n) for n in widths),
            nn.ModuleList(nn.Linear(3 * n, n) for n in widths),
        )
        self.depthwise = nn.ModuleList(nn.Conv2d(3 * n, 3 * n, 3, padding=1, groups=3 * n) for n in widths)
        self.decode, self.fuse, self.last = (
            nn.ModuleList(nn.Linear(n, 16) for n in widths),
            ConvBn(32, 16, 1),
            nn.Conv2d(16, 5, 1),
        )

    def attend(self, i, x, size):
        b, n, c = x.shape
        q = self.q[i](x).reshape(b, n, 2, c // 2).permute(0, 2, 1, 3)
        small = self.reduce[i](x.permute(0, 2, 1).reshape(b, c, *size)).reshape(b, c, -1).permute(0, 2, 1)
        kv = self.kv[i](self.norm2[i](small)).reshape(b, -1, 2, 2, c // 2).permute(2, 0, 3, 1, 4)
        weights = ((q @ kv[0].transpose(-2, -1)) * (c // 2) ** -0.5).softmax(dim=-1)
        return self.proj[i]((weights @ kv[1]).transpose(1, 2).reshape(b, n, c))

    def forward(self, x):
        maps = []
        for i in range(2):
            x = self.embed[i](x)
            size = x.shape[2:]
            y = x.flatten(2).transpose(1, 2)
            y = y + self.attend(i, self.norm1[i](y), size)
            hidden = self.up[i](self.norm3[i](y))
            hidden = self.depthwise[i](hidden.transpose(1, 2).view(x.size(0), -1, *size)).flatten(2).transpose(1, 2)
            y = y + self.down[i](F.gelu(hidden))
            x = y.reshape(x.size(0), *size, -1).permute(0, 3, 1, 2).contiguous()
            flat = self.decode[i](y).permute(0, 2, 1).reshape(x.size(0), -1, *size)
            maps.append(F.interpolate(flat, size=(16, 16), mode="bilinear", align_corners=False))
        return self.last(self.fuse(torch.cat(maps[::-1], 1)))


class LinearAttention(nn.Module):
    """Source: EfficientViT. No softmax: keys and values are multiplied first, and what belongs to no query cancels."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        self.stem, self.qkv = ConvBn(3, width, 3, 8), nn.Conv2d(width, 3 * width, 1, bias=False)
        self.proj, self.last = ConvBn(width, width, 1, act=None), nn.Conv2d(width, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, self.heads, 3 * c // self.heads, h * w).chunk(3, 2)
        q, k = F.relu(q).transpose(-1, -2), F.relu(k)
        v = F.pad(v, (0, 0, 0, 1), value=1.0).transpose(-1, -2)
        y = q @ (k @ v)
        y = (y[..., :-1] / (y[..., -1:] + 1e-6)).transpose(-1, -2).reshape(b, c, h, w)
        return self.last(x + self.proj(y))


class Mixer(nn.Module):
    """Source: MLP-Mixer. Linear layers along the patches and along the channels."""

    def __init__(self, width=16):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = chain(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 16))
        self.channels, self.head = chain(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width)), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class EinsumAttention(nn.Module):
    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        self.stem, self.qkv = ConvBn(3, width, 3, 8), nn.Linear(width, 3 * width)
        self.out, self.last = nn.Linear(width, width), nn.Conv2d(width, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (t.reshape(b, h * w, self.heads, c // self.heads) for t in self.qkv(tokens).chunk(3, -1))
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        y = self.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, h * w, c))
        return self.last((tokens + y).transpose(1, 2).reshape(b, c, h, w))


class RotaryAttention(nn.Module):
    """Queries and keys are rotated by position: pairs of channels are split, negated and joined."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads, self.half = heads, width // heads // 2
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.scale, self.head = nn.Parameter(torch.rand(width) + 0.5), nn.Linear(width, 6)
        angles = torch.outer(torch.arange(16.0), torch.rand(self.half))
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin())

    def rotated(self, x):
        turned = torch.cat([-x[..., self.half :], x[..., : self.half]], -1)
        return x * self.cos + turned * self.sin

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = self.scale * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        b, n, c = y.shape
        q, k, v = (layer(y).view(b, n, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = (self.rotated(q) @ self.rotated(k).transpose(-2, -1)).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, n, c))
        return self.head(x.mean(1))


MORE = {
    "bifpn": BiFpn,
    "bisenet": BiSeNet,
    "cbam": cbam,
    "centernet": CenterNet,
    "coord_conv": CoordConv,
    "detr": Detr,
    "eca": eca,
    "efficientnet": efficientnet,
    "einsum_attention": EinsumAttention,
    "gated_recurrent": GatedRecurrent,
    "ghostnet": ghostnet,
    "group_norm": group_norm,
    "hrnet": HrNet,
    "inception": Inception,
    "linear_attention": LinearAttention,
    "mixer": Mixer,
    "recurrent": Recurrent,
    "regnet": regnet,
    "repvgg": repvgg,
    "retinanet": RetinaNet,
    "rotary_attention": RotaryAttention,
    "segformer": SegFormer,
    "selective_kernel": selective_kernel,
    "shufflenet": shufflenet,
    "shufflenet_v2": shufflenet_v2,
    "ssd": Ssd,
    "strided": Strided,
    "subpixel": SubPixel,
    "swin": Swin,
    "vgg": Vgg,
    "vit": Vit,
    "yolov5": Yolov5,
    "yolov8": Yolov8,
    "yolox": Yolox,
    "zero_pad_shortcut": ZeroPadShortcut,
}
ARCHITECTURES = {**_small.ARCHITECTURES, **MORE}
