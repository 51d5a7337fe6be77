"""What each criterion of importance keeps at equal latency: pruned for one speed-up, fitted, and not trained at all.

    python benchmarks/prune_criteria.py --data-root DATA [--networks espnet yolox] [--criteria fisher taylor ...]

One latency table a network, OpenVINO, one thread; for each criterion the widths for the same predicted latency.
Metric: mIoU or AP of the float network on the recipe's validation images by ONNX Runtime, as cut and once what is left
is fitted; `measured ms` in turns with the network as it was. Importance and fit by the same images, without labels.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from prune_latency import ALIGN, RECIPES, ROOT, batches, read

from avcompress.distill.movement import Moves, moves_of_detector, moves_of_segmenter
from avcompress.float_network import deployed
from avcompress.onnx_import import import_onnx
from avcompress.prune import Coupling, channel_groups, without
from avcompress.prune import importance as by
from avcompress.prune.fitting import example, fitted, outputs_gone
from avcompress.prune.importance import Lesson, Scores
from avcompress.prune.latency.measure import latencies_ms, measure_table
from avcompress.prune.latency.predict import fit
from avcompress.prune.latency.solve import Problem, solve
from avcompress.prune.latency.widths import widths_of
from avcompress.prune.selection import steps_of
from avcompress.recipe import Detection, OpenVinoEngine, Recipe
from avcompress.recipe_load import load_recipe
from calibration.source import open_source
from engines.ort import open_ort
from validation.detection import evaluate_detection
from validation.predict import predict
from validation.segmentation import evaluate_segmentation

SPEEDUP = {"espnet": 1.5, "yolox": 1.15}
Criterion = Callable[[onnx.ModelProto, Coupling, Lesson], Scores]
CRITERIA: dict[str, Criterion] = {
    "fisher": lambda network, coupling, lesson: by.fisher(import_onnx(network), coupling, lesson),
    "taylor": lambda network, coupling, lesson: by.taylor(import_onnx(network), coupling, lesson),
    "gradient": lambda network, coupling, lesson: by.gradient(import_onnx(network), coupling, lesson),
    "activation": lambda network, coupling, lesson: by.activation(import_onnx(network), coupling, lesson.batches),
    "l2": lambda network, coupling, _: by.l2(network, coupling),
    "l1": lambda network, coupling, _: by.l1(network, coupling),
    "fpgm": lambda network, coupling, _: by.fpgm(network, coupling),
    "random": lambda _, coupling, __: by.chance(coupling, 0),
}


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--networks", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), choices=list(CRITERIA))
    parser.add_argument("--images", type=int, default=48)
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    torch.set_num_threads(1)
    for name in arguments.networks:
        compare(name, arguments)


def compare(name: str, arguments: Any) -> None:
    """Print what each criterion keeps of one network."""
    path, data_root = ROOT / "recipes" / RECIPES[name], Path(arguments.data_root)
    recipe = load_recipe(path)
    network = read(recipe, path.parent, data_root)
    plain, coupling = deployed(network), channel_groups(network)
    beside_plain = channel_groups(plain)
    lesson = Lesson(batches(recipe, data_root, arguments.images), moves=moves(recipe))
    engine = OpenVinoEngine(backend="openvino", threads=1)
    steps = steps_of(beside_plain, ALIGN)
    table = measure_table(plain, beside_plain, engine, steps)
    clock, dense_ms = fit(table, widths_of(plain, beside_plain)).total_ms, table.designs[0].total_ms
    whole = example(network, (images for images, _ in lesson.batches))
    metric = "AP" if isinstance(recipe.task, Detection) else "mIoU"
    print(f"\n{name}, {SPEEDUP[name]:g} times as fast; as it is: {metric} {judge(recipe, data_root, plain):.4f}\n")
    print(
        f"| importance | measured speed-up | {metric} as cut | fitted | importance and fit, s |\n|---|---|---|---|---|"
    )
    for criterion in arguments.criteria:
        start = time.process_time()
        scores = CRITERIA[criterion](network, coupling, lesson)
        removed = solve(Problem(beside_plain, scores, clock, steps), dense_ms / SPEEDUP[name])
        small = without(network, coupling, removed)
        better = fitted(whole, small, outputs_gone(network, coupling, removed)).network
        spent = time.process_time() - start
        before, after = latencies_ms([plain, deployed(small)], engine)
        found = [judge(recipe, data_root, deployed(each)) for each in (small, better)]
        print(f"| {criterion} | {before / after:.2f} | {found[0]:.4f} | {found[1]:.4f} | {spent:.0f} |", flush=True)


def moves(recipe: Recipe) -> Moves:
    """What a movement of the outputs counts."""
    if isinstance(recipe.task, Detection):
        return moves_of_detector(recipe.task, recipe.preprocess.size)
    return moves_of_segmenter


def judge(recipe: Recipe, data_root: Path, network: onnx.ModelProto) -> float:
    """AP or mIoU on the validation images."""
    source: Any = open_source(recipe.data.validation, data_root, recipe.classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(network.SerializeToString())
        with open_ort(path, optimize=True) as session:
            pairs: Any = predict(session, source, recipe.preprocess, recipe.task)
            if isinstance(recipe.task, Detection):
                return float(evaluate_detection(pairs, source.classes).metrics["AP"])
            return float(evaluate_segmentation(pairs, recipe.classes or ()).metrics["mIoU"])


if __name__ == "__main__":
    sys.exit(main())
