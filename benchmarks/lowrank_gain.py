"""What low-rank factors of real layers lose, and what they save on OpenVINO.

    python benchmarks/lowrank_gain.py errors|networks|large [--data-root data] [--images N]
                                       [--accuracy] [--out FOLDER]

errors: the share of each layer's output variance that is lost at half the multiply-accumulates, on images that nothing
was fitted to: factors of the weights alone against factors fitted to the output. YOLOX-nano and ESPNet.
networks: the same two networks factorized as recipes do it, by several rules: which layers gain, what the network then
takes, and, with `--accuracy`, its AP or mIoU on the recipe's validation images, before any training.
large: ResNet-50 and SSD with VGG-16 in plain torch, random weights: every method at half the multiply-accumulates.

One thread: times are the processor's for this process, so that they hold on a machine that
others use, too.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avcompress.export import to_onnx
from avcompress.float_network import float_network
from avcompress.lowrank import factorize
from avcompress.lowrank.candidates import Candidate
from avcompress.lowrank.fitting import Aim, fitted
from avcompress.lowrank.forms import FORMS, Ranks, composed, factor_macs, factor_shapes, suitable
from avcompress.lowrank.layers import Layer, find_layers
from avcompress.lowrank.measured import confirmed, faster_alone
from avcompress.lowrank.moments import measure
from avcompress.lowrank.ranks import path
from avcompress.lowrank.surgery import Factorization, apply
from avcompress.recipe import Detection, OpenVinoEngine
from avcompress.recipe_load import load_recipe
from avcompress.recipe_lowrank import Factorize, Method
from avcompress.spec import Batch
from calibration.batches import Batches
from calibration.source import open_source
from engines.onnx_graph import check, fold_constants, infer_shapes, macs, name_nodes
from engines.ort import open_ort
from engines.turns import Clock, Turns, engine_clock
from validation.detection import evaluate_detection
from validation.predict import predict
from validation.segmentation import evaluate_segmentation

RECIPES = {"YOLOX-nano": "yolox_nano_coco.yaml", "ESPNet": "espnet_camvid.yaml"}
FOLDER = Path(__file__).resolve().parents[1] / "recipes"
RULES: Mapping[str, Mapping[str, Any]] = {
    "energy 0.9": {"rank": {"energy": 0.9}},
    "energy 0.97": {"rank": {"energy": 0.97}},
    "evbmf": {"rank": "evbmf"},
    "speedup 1.2": {"rank": {"speedup": 1.2}},
}
HALF = 0.5


def main() -> None:
    """Run one part, and print its tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["errors", "networks", "large"])
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("AVCOMPRESS_DATA", "../shared/data")))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for the factorized networks, and what was decided")
    given = parser.parse_args()
    torch.set_num_threads(1)
    turns = Turns(warmup=1, least=7, seconds=0.05)
    clock = engine_clock(OpenVinoEngine(backend="openvino", threads=1), turns)
    match given.part:
        case "errors":
            errors(given.data_root, given.images)
        case "networks":
            networks(given.data_root, given.images, clock, given.out, given.accuracy)
        case _:
            large(clock)


def real_networks(root: Path, images: int) -> Iterable[tuple[str, onnx.ModelProto, list[Batch]]]:
    for name, file in RECIPES.items():
        recipe = load_recipe(FOLDER / file)
        network = prepared(float_network(recipe, FOLDER, root))
        source = open_source(recipe.data.calibration, root)
        yield name, network, list(Batches(source, recipe.preprocess, network.graph.input[0].name, limit=images))


def prepared(network: onnx.ModelProto) -> onnx.ModelProto:
    return check(infer_shapes(name_nodes(fold_constants(network))))


# --- errors


def errors(root: Path, images: int) -> None:
    print("| network | method | layers | of weights | fitted to the output | ratio |\n|---|---|---|---|---|---|")
    for name, network, batches in real_networks(root, images):
        layers, _ = find_layers(network)
        seen = measure(network, layers, batches)
        for method in FORMS:
            pairs = []
            for layer in layers:
                ranks = half_ranks(layer, method, align=1)
                if ranks is None:
                    continue
                judge = Aim(layer.weight, seen[layer.name].held_out.spread)
                ways = (Aim(layer.weight), Aim(layer.weight, seen[layer.name].learned.spread))
                pairs.append([judge.error(composed(method, fitted(aim, method, ranks))) for aim in ways])
            lost = np.array(pairs)
            ratio = float(np.exp(np.log(lost[:, 0] / lost[:, 1]).mean()))
            print(
                f"| {name} | {method} | {len(lost)} | {lost[:, 0].mean():.3f} | {lost[:, 1].mean():.3f} | {ratio:.2f} |"
            )


def half_ranks(layer: Layer, method: Method, align: int) -> Ranks | None:
    """The highest ranks at which the factors have at most half of the layer's multiply-accumulates."""
    if method not in suitable(layer.shape):
        return None
    steps = path(method, layer.weight, layer.extent, align)
    fits = [ranks for ranks in steps if factor_macs(method, layer.shape, ranks, layer.extent) <= HALF * layer.macs]
    return fits[-1] if fits else None


# --- networks


def networks(root: Path, images: int, clock: Clock, out: Path | None, judged: bool) -> None:
    print("| network | rule | layers | methods | MACs | ms before | ms after | times as fast | AP, mIoU |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, network, batches in real_networks(root, images):
        if judged:
            print(f"| {name} | as it was | | | 100% | | | 1 | {accuracy(name, root, network):.4f} |", flush=True)
        for rule, given in RULES.items():
            done = factorize(network, Factorize(kind="factorize", **given), batches, clock)
            by = [each.method for each in done.decompositions]
            methods = ", ".join(f"{by.count(method)} {method}" for method in FORMS if method in by)
            share = sum(macs(done.network).values()) / sum(macs(network).values())
            print(
                f"| {name} | {rule} | {len(by)} of {len(by) + len(done.left)} | {methods} | {share:.0%} | "
                f"{done.ms_before:.2f} | {done.ms_after:.2f} | {done.ms_before / done.ms_after:.2f} | "
                f"{accuracy(name, root, done.network) if judged else float('nan'):.4f} |",
                flush=True,
            )
            if out is not None:
                stem = f"{name}_{rule}".replace(" ", "_")
                out.mkdir(parents=True, exist_ok=True)
                onnx.save(done.network, out / f"{stem}.onnx")
                told = {"log": done.log, "taken_apart": list(map(vars, done.decompositions))}
                (out / f"{stem}.json").write_text(json.dumps(told | {"left": list(map(vars, done.left))}, indent=1))


def accuracy(name: str, root: Path, network: onnx.ModelProto) -> float:
    """AP or mIoU over the recipe's validation images."""
    recipe = load_recipe(FOLDER / RECIPES[name])
    samples = open_source(recipe.data.validation, root, recipe.classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(network, path)
        with open_ort(path, optimize=True, threads=1) as session:
            pairs: Iterable[Any] = predict(session, samples, recipe.preprocess, recipe.task)
            if isinstance(recipe.task, Detection):
                return evaluate_detection(pairs, samples.classes).metrics["AP"]
            return evaluate_segmentation(pairs, samples.classes).metrics["mIoU"]


# --- large


def large(clock: Clock) -> None:
    print("| network | method | layers that gain | of | ms before | ms after | times as fast |")
    print("|---|---|---|---|---|---|---|")
    made = {"ResNet-50, 3x224x224": (resnet50, (224, 224)), "SSD300, VGG-16": (ssd_vgg, (300, 300))}
    for name, (build, size) in made.items():
        torch.manual_seed(0)
        network = prepared(to_onnx(build().eval(), size))
        layers, _ = find_layers(network)
        for method in FORMS:
            found = [way for layer in layers if (way := at_half(layer, method)) is not None]
            gaining = [
                alone[0] for way in found if not isinstance(alone := faster_alone(network, [way], clock, 0.05), str)
            ]
            kept = confirmed(network, gaining, clock)
            before, after = clock([network, apply(network, [choice.candidate.into for choice in kept])])
            times = f"{before:.1f} | {after:.1f} | {before / after:.2f}"
            print(f"| {name} | {method} | {len(kept)} | {len(found)} | {times} |", flush=True)


def at_half(layer: Layer, method: Method) -> Candidate | None:
    """Random factors with half of a layer's multiply-accumulates: what they take does not depend on their values."""
    ranks = half_ranks(layer, method, align=8)
    if ranks is None:
        return None
    random = np.random.default_rng(0)
    shapes: Sequence[tuple[int, ...]] = factor_shapes(method, layer.shape, ranks)
    factors = tuple(random.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape)) for shape in shapes)
    return Candidate(
        Factorization(layer, method, ranks, factors), factor_macs(method, layer.shape, ranks, layer.extent), 1.0
    )


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, and what it was given."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv(inputs, width, 1), nn.ReLU(), *conv(width, width, 3, stride), nn.ReLU(), *conv(width, 4 * width, 1)
        )
        same = stride == 1 and inputs == 4 * width
        self.skip = nn.Identity() if same else nn.Sequential(*conv(inputs, 4 * width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, 4 * width, H / stride, W / stride)."""
        return F.relu(self.body(x) + self.skip(x))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)


def resnet50() -> nn.Module:
    """Source: He et al., arXiv:1512.03385; the stride is the 3x3's."""
    blocks: list[nn.Module] = []
    inputs = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            blocks.append(Bottleneck(inputs, width, stride if number == 0 else 1))
            inputs = 4 * width
    stem = (*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class SsdVgg(nn.Module):
    """The backbone of SSD300 with its six feature maps and their predictions, 21 classes.

    Source: Liu et al., arXiv:1512.02325.
    """

    def __init__(self) -> None:
        super().__init__()
        plan: list[Any] = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512]
        self.low, inputs = self._vgg(plan, 3)
        self.high, inputs = self._vgg(["M", 512, 512, 512], inputs)
        self.top = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(),
            nn.Conv2d(1024, 1024, 1), nn.ReLU(),
        )  # fmt: skip
        extra = ((1024, 256, 512, 2, 1), (512, 128, 256, 2, 1), (256, 128, 256, 1, 0), (256, 128, 256, 1, 0))
        self.extra = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 1), nn.ReLU(), nn.Conv2d(b, c, 3, stride, padding), nn.ReLU())
            for a, b, c, stride, padding in extra
        )
        boxes = ((512, 4), (1024, 6), (512, 6), (256, 6), (256, 4), (256, 4))
        self.heads = nn.ModuleList(nn.Conv2d(channels, count * 25, 3, padding=1) for channels, count in boxes)

    @staticmethod
    def _vgg(plan: list[Any], inputs: int) -> tuple[nn.Sequential, int]:
        parts: list[nn.Module] = []
        for item in plan:
            if item == "M":
                parts.append(nn.MaxPool2d(2, ceil_mode=True))
            else:
                parts += [nn.Conv2d(inputs, item, 3, padding=1), nn.ReLU()]
                inputs = item
        return nn.Sequential(*parts), inputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 300, 300) -> (N, 8732, 25)."""
        maps = [self.low(x)]
        maps.append(self.top(self.high(maps[0])))
        for block in self.extra:
            maps.append(block(maps[-1]))
        return torch.cat(
            [
                head(each).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 25)
                for head, each in zip(self.heads, maps, strict=True)
            ],
            dim=1,
        )


def ssd_vgg() -> nn.Module:
    return SsdVgg()


if __name__ == "__main__":
    main()
