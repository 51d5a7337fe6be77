"""Which layers of YOLOX-nano stay float, chosen by sensitivity and not by hand, and what that keeps of its AP.

    python benchmarks/mixed_precision.py --data-root DATA [--kind fisher] [--target TARGET] [--floor 0.999] [--tries 8]

Prepared and repaired as recipes/yolox_nano_all_int8.yaml says, with INT8 or FP32 for each group: what groups lose by
`kind` on 64 calibration images, what they take by the roofline of a target. The front of both is verified on every
other validation image: the fastest choice that keeps `floor` of the float network's AP there is then measured on the
other half. AP is by ONNX Runtime, graph optimizations off.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from avcompress.judging.measuring import accuracy  # noqa: E402
from avcompress.quant.apply import apply  # noqa: E402
from avcompress.quant.stages.ptq import calibrate, quantize  # noqa: E402
from avcompress.recipe import CorrectBias, Equalize, Ptq, Recipe, Smooth  # noqa: E402
from avcompress.recipe_load import load_recipe  # noqa: E402
from avcompress.search.assignment import Assignment, share_of_macs  # noqa: E402
from avcompress.search.cache import Cache  # noqa: E402
from avcompress.search.formats import Formats, everything, formats_of  # noqa: E402
from avcompress.search.latency.roofline import Roofline  # noqa: E402
from avcompress.search.latency.source import Subject  # noqa: E402
from avcompress.search.pool import Here  # noqa: E402
from avcompress.search.sensitivity.measure import Material, measure_sensitivity  # noqa: E402
from avcompress.search.sensitivity.values import Kind  # noqa: E402
from avcompress.search.solve.front import front  # noqa: E402
from avcompress.search.solve.problem import Problem, problem_of  # noqa: E402
from avcompress.search.stages import stages_for  # noqa: E402
from avcompress.search.verify import Limits, Outcome, verify  # noqa: E402
from avcompress.spec import Artifact  # noqa: E402
from avcompress.trial import Trial, trial_of  # noqa: E402
from calibration.batches import Batches  # noqa: E402
from calibration.part import take_part  # noqa: E402
from calibration.source import open_source  # noqa: E402
from calibration.statistics import Statistics  # noqa: E402
from engines.onnx_load import load_onnx  # noqa: E402
from engines.ort import open_ort  # noqa: E402
from engines.profile_load import load_profile  # noqa: E402
from validation.truth import read_truth  # noqa: E402

RECIPE = "yolox_nano_all_int8.yaml"
IMAGES = 64


def main() -> None:
    """Print what was tried, and what the chosen network keeps on the half that nothing was chosen by."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--kind", default="fisher", choices=["output", "fisher", "hessian"])
    parser.add_argument("--target", default="orin-agx", help="whose roofline")
    parser.add_argument("--floor", type=float, default=0.999)
    parser.add_argument("--tries", type=int, default=8)
    parser.add_argument("--plain", action="store_true", help="without what prepares the network for INT8")
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    bench = prepared(Path(arguments.data_root), arguments.plain)
    problem = modelled(bench, arguments.kind, arguments.target)
    offered = front(problem)
    floats = [bench.score(bench.formats.model, half) for half in (0, 1)]
    print(f"AP of the float network on the two halves: {floats[0]:.4f}, {floats[1]:.4f}\n")
    print("| predicted loss | predicted ms | MACs in INT8 | AP lost |\n|---|---|---|---|")

    def evaluate(assignment: Assignment) -> Outcome:
        choice = problem.choice(assignment)
        lost = floats[0] - bench.score(bench.quantized(assignment), 0)
        figures = f"{problem.loss(choice):.4g} | {problem.taken_ms(choice):.4g} | {bench.share(assignment):.1f} %"
        print(f"| {figures} | {lost:.4f} |", flush=True)
        return Outcome(lost, problem.taken_ms(choice))

    limits = Limits(loss=(1 - arguments.floor) * floats[0])
    best = verify(problem, offered, limits, evaluate, arguments.tries).best
    if best is None:
        sys.exit(f"\nnone loses at most {limits.loss:.4f}")
    other, share = bench.score(bench.quantized(best.assignment), 1), bench.share(best.assignment)
    print(f"\nchosen: {share:.1f} % of MACs in INT8; on the other half AP {other:.4f} of {floats[1]:.4f}")


@dataclass(frozen=True)
class Bench:
    """What choices are made and judged with."""

    recipe: Recipe
    settings: Ptq
    artifact: Artifact
    batches: Batches
    statistics: Statistics
    formats: Formats
    halves: tuple[Trial, ...]

    def quantized(self, assignment: Assignment) -> onnx.ModelProto:
        """The network as the recipe's stages would make it."""
        stages = stages_for(self.formats.layout, assignment, self.settings)
        ptq = next((stage for stage in stages if isinstance(stage, Ptq)), None)
        return self.formats.model if ptq is None else self._made(ptq)

    def _made(self, ptq: Ptq) -> onnx.ModelProto:
        made = quantize(self.artifact, ptq, self.batches, self.statistics)
        for stage in self.recipe.stages:
            made = apply(stage, made, self.batches) if isinstance(stage, CorrectBias) else made
        network: onnx.ModelProto = made.model
        return network

    def share(self, assignment: Assignment) -> float:
        """Of the multiply-accumulates, in INT8, in per cent."""
        return 100 * share_of_macs(self.formats.layout, assignment, "int8")

    def score(self, model: onnx.ModelProto, half: int) -> float:
        """AP of a network on a half."""
        trial = self.halves[half]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            with open_ort(path) as session:
                return accuracy(trial, session, trial.source, read_truth(trial.source))["AP"]


def prepared(root: Path, plain: bool) -> Bench:
    """The float network after the stages that prepare it for INT8, it in INT8, and both halves of the images."""
    recipe = load_recipe(ROOT / "recipes" / RECIPE)
    model = load_onnx((root / recipe.model.onnx).resolve(), recipe.preprocess.size)
    source = open_source(recipe.data.calibration, root, recipe.classes)
    batches = Batches(source, recipe.preprocess, model.graph.input[0].name)
    artifact = Artifact(model)
    for stage in recipe.stages:
        if isinstance(stage, Equalize | Smooth) and not plain:
            artifact = apply(stage, artifact, batches)
    settings = next(stage for stage in recipe.stages if isinstance(stage, Ptq))
    statistics = calibrate(artifact, everything(settings), batches)
    formats = formats_of(artifact, ["fp32", "int8"], settings, batches, statistics)
    return Bench(recipe, settings, artifact, batches, statistics, formats, tuple(half(recipe, root, n) for n in (1, 2)))


def half(recipe: Recipe, root: Path, number: int) -> Trial:
    """Every other validation image, from the first or the second on."""
    source = take_part(open_source(recipe.data.validation, root, recipe.classes), number, 2)
    return trial_of(recipe, recipe.classes or source.classes, source)


def modelled(bench: Bench, kind: Kind, target: str) -> Problem:
    """What groups lose, and what they take on a target."""
    formats = bench.formats
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        material = Material(formats, bench.batches, IMAGES, bench.recipe.task, bench.recipe.preprocess.size)
        sensitivity = measure_sensitivity(kind, material, Cache(Path(folder)), Here())
    print(f"{kind} of {len(formats.layout.groups)} groups on {IMAGES} images: {time.monotonic() - start:.0f} s")
    subject = Subject(formats.model, formats.layout, formats.choices, formats.assigned)
    table = Roofline(load_profile(target)).table(subject)
    print(f"times {table.says}")
    return problem_of(formats.layout, formats.choices, sensitivity, table)


if __name__ == "__main__":
    main()
