"""What a step of quantization-aware training costs against a step of the float network.

    python benchmarks/qat_cost.py [--data-root data] [--batch N] [--rounds N] [--threads N] [--method lsq]

YOLOX-nano (416x416) with every convolution but the nine that predict in INT8, and ESPNet (360x480) as its recipe
quantizes it. Both sides are what `import_onnx` makes of the network with batch normalization folded, on the same images
(noise), with the same loss (mean square of the outputs' difference to given ones), backward pass and AdamW step; rounds
of the two alternate in one process. Ends with 1 when a QAT step takes more than 1.6 times as long (medians).
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from avcompress.float_network import float_network
from avcompress.onnx_import import import_onnx
from avcompress.quant.learning.qat_module import qat_module
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import KeepFloat, Ptq
from avcompress.recipe_load import load_recipe
from avcompress.recipe_qat import Qat
from avcompress.spec import Artifact

LIMIT = 1.6
RECIPES = {"YOLOX-nano": "yolox_nano_all_int8.yaml", "ESPNet": "espnet_camvid.yaml"}
FOLDER = Path(__file__).resolve().parents[1] / "recipes"


def main() -> int:
    """Measure each network, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("AVCOMPRESS_DATA", "../shared/data")))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", default="lsq")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| network | float step, s | QAT step, s | ratio |\n|---|---|---|---|")
    worst = 0.0
    for name in RECIPES:
        artifact = quantized(name, arguments.data_root)
        plain, learning = import_onnx(artifact.reference), qat_module(artifact, settings(arguments.method))
        size = tuple(dim.dim_value for dim in artifact.model.graph.input[0].type.tensor_type.shape.dim)[2:]
        inputs = torch.rand(arguments.batch, 3, *size, generator=torch.Generator().manual_seed(0))
        seconds = alternate((stepper(plain, inputs), stepper(learning, inputs)), arguments.rounds)
        ratio = seconds[1] / seconds[0]
        worst = max(worst, ratio)
        print(f"| {name}, batch {arguments.batch} | {seconds[0]:.3f} | {seconds[1]:.3f} | {ratio:.2f} |")
    return int(worst > LIMIT)


def settings(method: str) -> Qat:
    return Qat(kind="qat", steps=1, method=method)


def quantized(name: str, data_root: Path) -> Artifact:
    """The network in INT8; its ranges are of noise, which costs the same."""
    path = FOLDER / RECIPES[name]
    network = float_network(load_recipe(path), path.parent, data_root)
    shape = [dim.dim_value for dim in network.graph.input[0].type.tensor_type.shape.dim]
    noise = {network.graph.input[0].name: np.random.default_rng(0).random(shape, np.float32)}
    keep = KeepFloat(head=True, depthwise=name == "ESPNet")
    return quantize(Artifact(network), Ptq(kind="ptq", activations="shifted", keep_float=keep), [noise])


def stepper(module: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """One step of training: forward, backward, optimizer."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6)
    with torch.no_grad():
        given = module(inputs) + 0.1

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (module(inputs) - given).square().mean().backward()
        optimizer.step()

    return step


def alternate(steps: tuple[Callable[[], None], ...], rounds: int) -> list[float]:
    """The median seconds of each, run in turns; the first round is left out."""
    taken: list[list[float]] = [[] for _ in steps]
    for index in range(rounds + 1):
        for step, seconds in zip(steps, taken, strict=True):
            start = time.perf_counter()
            step()
            if index:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in taken]


if __name__ == "__main__":
    sys.exit(main())
