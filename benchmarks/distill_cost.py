"""What a step of distillation costs: against a pass of the teacher and a step of the student, interleaved, in one run.

    python benchmarks/distill_cost.py --data-root DATA [--rounds N] [--threads N] [--device cpu|cuda]

ESPNet on CamVid (at half of its resolution) and YOLOX-nano (imported from ONNX) on COCO, each taught by a copy of
itself. The student's step is one forward and back with the task's own loss on labels, and AdamW. The distillation step
is a pass of the teacher without gradients, one forward and back of the student with the losses named and no labels,
and AdamW. The three take turns on the same batch of images. The shortest of the rounds counts, on the CPU in processor
time: what other processes do only lengthens it. Ends with 1 where

    distillation step > teacher's pass + 1.15 * student's step

Prints a table in Markdown.
"""

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from avcompress.recipe import Detection  # noqa: E402

TIMES = 1.15
YOLOX = Detection(kind="detection", decode="yolox")
SEGMENTER: list[list[dict[str, Any]]] = [
    [{"kind": "soft"}],
    [{"kind": "soft"}, {"kind": "cwd", "taps": ["encoder.b3", "encoder.b2"]}],
    [{"kind": "attention", "taps": ["encoder.b3", "encoder.b2"]}],
]
DETECTOR: list[list[dict[str, Any]]] = [
    [{"kind": "response"}],
    [{"kind": "response"}, {"kind": "cwd", "taps": ["Mul_301", "Mul_334", "Mul_367"]}],
    [{"kind": "response"}, {"kind": "features", "taps": ["Mul_301", "Mul_334", "Mul_367"]}],
]


def main() -> None:
    """Time both networks, print the table, and end with 1 when a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--rounds", type=int, default=8, help="of each of the three; the shortest counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print("| network | losses | teacher ms | student step ms | distillation step ms | of the student's step | kept |")
    print("|---|---|---|---|---|---|---|")
    kept = [*segmenter(arguments), *detector(arguments)]
    sys.exit(0 if all(kept) else 1)


def segmenter(arguments: argparse.Namespace) -> list[bool]:
    """ESPNet with the weights that its authors published, on two images of CamVid."""
    from avcompress.models.loading import load_torch
    from avcompress.recipe_network import TorchModel
    from avcompress.train.pixels import cross_entropy

    weights = "models/espnet_p_2_q_8_camvid.pth"
    settings = TorchModel(factory="espnet:espnet", import_from=str(ROOT / "examples"), weights=weights)
    teacher = load_torch(settings, arguments.data_root, ROOT)
    inputs, samples = batch("espnet_camvid.yaml", arguments.data_root, (176, 240), 2)
    return compare(
        Case("ESPNet", teacher, inputs, lambda outputs: cross_entropy(outputs, samples)), SEGMENTER, arguments
    )


def detector(arguments: argparse.Namespace) -> list[bool]:
    """YOLOX-nano as a module, on one image of COCO."""
    from avcompress.onnx_import import import_onnx
    from avcompress.train.yolox import yolox_loss
    from engines.onnx_load import load_onnx

    teacher = import_onnx(load_onnx(arguments.data_root / "models" / "yolox_nano.onnx", (416, 416)))
    inputs, samples = batch("yolox_nano_coco.yaml", arguments.data_root, (416, 416), 1)
    return compare(
        Case("YOLOX-nano", teacher, inputs, lambda outputs: yolox_loss(outputs, samples, YOLOX)), DETECTOR, arguments
    )


def batch(recipe: str, data_root: Path, size: tuple[int, int], count: int) -> tuple[Tensor, list[Any]]:
    """Labelled images of a recipe, as its network takes them."""
    from avcompress.recipe_load import load_recipe
    from avcompress.train import load
    from calibration.source import open_source

    settings = load_recipe(ROOT / "recipes" / recipe)
    source = settings.data.validation.model_copy(update={"limit": count})
    dataset = load(
        open_source(source, data_root, settings.classes), settings.preprocess.model_copy(update={"size": size})
    )
    return dataset.batch(range(count), np.random.default_rng(0))


class Case(NamedTuple):
    """A network that teaches a copy of itself, its inputs, and its own loss on their labels."""

    name: str
    teacher: nn.Module
    inputs: Tensor
    own_loss: Callable[[Any], Tensor]


def compare(case: Case, losses: list[list[dict[str, Any]]], arguments: argparse.Namespace) -> list[bool]:
    """A line of the table for each list of losses; whether each keeps the limit."""
    inputs, teacher = case.inputs.to(arguments.device), case.teacher.to(arguments.device).eval()
    found = []
    for each in losses:
        asked, own, whole = timed(work(case, teacher, inputs, each), arguments.rounds, arguments.device != "cpu")
        found.append(whole <= asked + TIMES * own)
        times = " | ".join(f"{1e3 * seconds:.0f}" for seconds in (asked, own, whole))
        kinds = " + ".join(loss["kind"] for loss in each)
        print(f"| {case.name} | {kinds} | {times} | {(whole - asked) / own:.2f} | {'yes' if found[-1] else 'no'} |")
    return found


def work(
    case: Case, teacher: nn.Module, inputs: Tensor, losses: list[dict[str, Any]]
) -> tuple[Callable[[], None], ...]:
    """The teacher's pass, the student's step, and the distillation step."""
    from avcompress.distill import Subject, distillation
    from avcompress.recipe_distill import Teaching

    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.01)
    taught = distillation(student, teacher, Teaching.model_validate({"losses": losses}), inputs[:1], Subject(YOLOX))
    optimizer = torch.optim.AdamW(taught.parameters(), lr=1e-6)
    taught.train()

    def ask() -> None:
        with torch.inference_mode():
            teacher(inputs)

    return (
        ask,
        lambda: step(optimizer, lambda: case.own_loss(student(inputs))),
        lambda: step(optimizer, lambda: taught.loss(inputs)),
    )


def step(optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor]) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss_of().backward()
    optimizer.step()


def timed(work: tuple[Callable[[], None], ...], rounds: int, on_gpu: bool) -> list[float]:
    """The shortest time of each in seconds; they take turns, and the first round warms up."""
    seconds: list[list[float]] = [[] for _ in work]
    clock = time.perf_counter if on_gpu else time.process_time
    for index in range(rounds + 1):
        for each, times in zip(work, seconds, strict=True):
            start = clock()
            each()
            if on_gpu:
                torch.cuda.synchronize()
            if index:
                times.append(clock() - start)
    return [min(times) for times in seconds]


if __name__ == "__main__":
    main()
