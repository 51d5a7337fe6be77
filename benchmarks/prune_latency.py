"""Whether predicted latency holds: networks pruned for five speed-ups, each predicted, then measured.

    python benchmarks/prune_latency.py --data-root DATA [--networks espnet yolox] [--speedups 1.2 1.35 1.5 1.75 2.0]

ESPNet and YOLOX-nano, float, on OpenVINO with one thread: one latency table each, then for each speed-up the widths
that lose the least `fisher` importance. They are measured in turns with the network as it was, so that both meet the
machine in the same state; the prediction is of the table's hour and is held against the ratio. What is printed is the
first choice of the solver, which the table alone has predicted, and the one that a recipe takes in the end, after
choices that were predicted badly have been added to what predictions come from; each was predicted before it was
measured. Ends with 1 where one of the latter is off by more than a tenth.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from avcompress.export import to_onnx  # noqa: E402
from avcompress.float_network import deployed  # noqa: E402
from avcompress.models.loading import load_torch  # noqa: E402
from avcompress.onnx_import import import_onnx  # noqa: E402
from avcompress.prune import Removed, channel_groups, without  # noqa: E402
from avcompress.prune.importance import Lesson, fisher  # noqa: E402
from avcompress.prune.latency.approach import Try, approach, best_of  # noqa: E402
from avcompress.prune.latency.measure import latencies_ms, measure_table  # noqa: E402
from avcompress.prune.latency.predict import fit  # noqa: E402
from avcompress.prune.latency.solve import Problem  # noqa: E402
from avcompress.prune.latency.widths import widths_of  # noqa: E402
from avcompress.prune.selection import steps_of  # noqa: E402
from avcompress.recipe import OpenVinoEngine, Recipe  # noqa: E402
from avcompress.recipe_load import load_recipe  # noqa: E402
from avcompress.recipe_network import OnnxModel  # noqa: E402
from avcompress.running.choosing import Batches, few  # noqa: E402
from avcompress.spec import untracked  # noqa: E402
from avcompress.train import load  # noqa: E402
from calibration.source import open_source  # noqa: E402
from engines.onnx_load import load_onnx  # noqa: E402

RECIPES = {"espnet": "espnet_camvid.yaml", "yolox": "yolox_nano_coco.yaml"}
SPEEDUPS = (1.2, 1.35, 1.5, 1.75, 2.0)
IMAGES = 16
ALIGN = 8
OFF = 0.1


def main() -> None:
    """Print a table for each network, and end with 1 where a prediction is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--networks", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--speedups", nargs="+", type=float, default=list(SPEEDUPS))
    parser.add_argument("--seconds", type=float, default=4.0, help="of runs of each network in a comparison")
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    torch.set_num_threads(1)
    off = [part for name in arguments.networks for part in compare(name, arguments)]
    sys.exit(0 if max(off) <= OFF else 1)


def compare(name: str, arguments: Any) -> list[float]:
    """How far each of a network's predictions is off, in parts of what was measured."""
    path = ROOT / "recipes" / RECIPES[name]
    recipe = load_recipe(path)
    network = read(recipe, path.parent, Path(arguments.data_root))
    plain = deployed(network)
    coupling, scored = channel_groups(plain), channel_groups(network)
    scores = fisher(import_onnx(network), scored, Lesson(batches(recipe, Path(arguments.data_root))))
    engine = OpenVinoEngine(backend="openvino", threads=1)
    start = time.monotonic()
    steps = steps_of(coupling, ALIGN)
    table = measure_table(plain, coupling, engine, steps)
    dense_ms = table.designs[0].total_ms
    print(f"\n{name}: {dense_ms:.1f} ms, {len(table.designs)} widths timed in {time.monotonic() - start:.0f} s\n")
    print("| asked | first: predicted | measured | off | tries | taken: predicted | measured | off |")
    print("|---|---|---|---|---|---|---|---|")
    widths = widths_of(plain, coupling)
    problem = Problem(coupling, scores, fit(table, widths).total_ms, steps)

    def measured_ms(removed: Removed) -> float:
        before, after = latencies_ms([plain, without(plain, coupling, removed)], engine, arguments.seconds)
        return after * dense_ms / before

    found = []
    for speedup in arguments.speedups:
        tried = approach(problem, table, widths, dense_ms / speedup, measured_ms)
        taken = best_of(tried, problem, dense_ms / speedup)
        first, last = shown(tried[0], dense_ms), shown(taken, dense_ms)
        print(f"| {speedup:g} | {first} | {len(tried)} | {last} |", flush=True)
        found.append(abs(off(taken)))
    return found


def shown(one: Try, dense_ms: float) -> str:
    """Cells of a table: the speed-up as predicted, as measured, and how far the one is off the other."""
    return f"{dense_ms / one.predicted_ms:.3f} | {dense_ms / one.measured_ms:.3f} | {100 * off(one):+.1f} %"


def off(one: Try) -> float:
    """How much faster a network was than predicted, in parts of the predicted speed-up."""
    return one.predicted_ms / one.measured_ms - 1


def read(recipe: Recipe, folder: Path, data_root: Path) -> onnx.ModelProto:
    """A recipe's float network, its normalization kept where it has any."""
    size = recipe.preprocess.size
    if isinstance(recipe.model, OnnxModel):
        return load_onnx((data_root / recipe.model.onnx).resolve(), size)
    return to_onnx(load_torch(recipe.model, data_root, folder), size, keep_norms=True)  # type: ignore[arg-type]


def batches(recipe: Recipe, data_root: Path, count: int = IMAGES) -> Batches:
    """Some of the calibration images."""
    source = open_source(recipe.data.calibration, data_root, recipe.classes)
    return Batches(load(few(source, count), recipe.preprocess, untracked, labels=False))


if __name__ == "__main__":
    main()
