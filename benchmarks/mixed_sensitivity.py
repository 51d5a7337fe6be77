"""How long the sensitivity of YOLOX-nano's groups takes, on 64 images with two processes, and how far measures agree.

    python benchmarks/mixed_sensitivity.py --data-root DATA [--images 64] [--processes 2] [--precisions int8]

Quantized as recipes/yolox_nano_coco.yaml says but with every layer in INT8 that can be. Time counts from the quantized
network on: images are read, every group is changed alone and run, each anew. `rank` is Spearman's correlation with the
movement of the outputs. Ends with 1 where the movement of the outputs takes longer than the limit, in seconds.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from avcompress.quant.stages.ptq import calibrate  # noqa: E402
from avcompress.recipe import Ptq, Recipe  # noqa: E402
from avcompress.recipe_load import load_recipe  # noqa: E402
from avcompress.search.cache import Cache  # noqa: E402
from avcompress.search.formats import Formats, everything, formats_of  # noqa: E402
from avcompress.search.pool import Processes  # noqa: E402
from avcompress.search.sensitivity.measure import Material, measure_sensitivity  # noqa: E402
from avcompress.search.sensitivity.values import Sensitivity  # noqa: E402
from avcompress.spec import Artifact  # noqa: E402
from calibration.batches import Batches  # noqa: E402
from calibration.source import open_source  # noqa: E402
from engines.onnx_load import load_onnx  # noqa: E402

RECIPE = "yolox_nano_coco.yaml"
KINDS = ("output", "fisher", "hessian")


def main() -> None:
    """Print a line for each measure, and the groups that lose most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", default=["int8"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--limit", type=float, default=240.0)
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    recipe = load_recipe(ROOT / "recipes" / RECIPE)
    formats, batches = quantized(recipe, Path(arguments.data_root), arguments.precisions)
    material = Material(formats, batches, arguments.images, recipe.task, recipe.preprocess.size)
    cases = sum(len(own) - 1 for own in formats.choices.values())
    print(f"{len(formats.layout.groups)} groups, {cases} cases, {arguments.images} images\n")
    print("| measure | s | of processors: s | the same from the cache: s | rank |\n|---|---|---|---|---|")
    found: dict[str, tuple[Sensitivity, float]] = {}
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            seconds, worked = [], []
            for _ in range(2):
                start, before = time.monotonic(), processor_s()
                values = measure_sensitivity(kind, material, Cache(Path(folder)), Processes(arguments.processes))
                seconds.append(time.monotonic() - start)
                worked.append(processor_s() - before)
        found[kind] = values, seconds[0]
        taken = f"{seconds[0]:.0f} | {worked[0]:.0f} | {seconds[1]:.1f}"
        print(f"| {kind} | {taken} | {agreement(found, kind)} |", flush=True)
    tell(found)
    sys.exit(0 if "output" not in found or found["output"][1] <= arguments.limit else 1)


def processor_s() -> float:
    """What this process and those that it has waited for have computed."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def quantized(recipe: Recipe, data_root: Path, precisions: list[str]) -> tuple[Formats, Batches]:
    """The recipe's network in all that is asked for, and its calibration images."""
    model = load_onnx((data_root / recipe.model.onnx).resolve(), recipe.preprocess.size)
    settings = next(stage for stage in recipe.stages if isinstance(stage, Ptq))
    source = open_source(recipe.data.calibration, data_root, recipe.classes)
    batches = Batches(source, recipe.preprocess, model.graph.input[0].name)
    statistics = calibrate(Artifact(model), everything(settings), batches)
    return formats_of(Artifact(model), ["fp32", *precisions], settings, batches, statistics), batches


def agreement(found: dict[str, tuple[Sensitivity, float]], kind: str) -> str:
    """Spearman's correlation with the movement of the outputs, over all cases."""
    if "output" not in found:
        return ""
    first, other = found["output"][0].losses, found[kind][0].losses
    pairs = [(first[group][each], other[group][each]) for group in first for each in first[group]]
    return f"{spearmanr(*np.array(pairs).T).statistic:.2f}"


def tell(found: dict[str, tuple[Sensitivity, float]]) -> None:
    """The ten groups that lose most, by the first measure."""
    measures = [values.losses for values, _ in found.values()]
    worst = sorted(measures[0], key=lambda group: -max(measures[0][group].values()))[:10]
    print(f"\n| group | precision | {' | '.join(found)} |\n|---|---|{'---|' * len(found)}")
    for group in worst:
        for precision in measures[0][group]:
            print(f"| {group} | {precision} | {' | '.join(f'{own[group][precision]:.3g}' for own in measures)} |")


if __name__ == "__main__":
    main()
