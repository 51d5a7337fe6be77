"""What a teacher is worth: the student of a recipe, trained with its teacher and without, equally long.

    python benchmarks/distill_gain.py --data-root DATA --seeds 0 1 2

Takes recipes/espnet_half_distilled.yaml: ESPNet at half its channels and half its resolution, taught by ESPNet. Every
arm has the same network, initial weights, images, order, augmentation, steps and schedule by seed; only `losses`
differ. Metric: mIoU of the exported float network on the validation images, by ONNX Runtime. Prints each training as
it is done, then a table in Markdown; ends with 1 where the recipe's arm is less than a point above labels alone.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from avcompress.distill import Guidance, distill, load_teacher  # noqa: E402
from avcompress.export import to_onnx  # noqa: E402
from avcompress.models.loading import load_torch  # noqa: E402
from avcompress.recipe import Recipe  # noqa: E402
from avcompress.recipe_distill import Distill  # noqa: E402
from avcompress.recipe_load import load_recipe  # noqa: E402
from avcompress.recipe_network import TorchModel  # noqa: E402
from avcompress.spec import Artifact  # noqa: E402
from avcompress.train import TaskLoss  # noqa: E402
from avcompress.train.pixels import cross_entropy  # noqa: E402
from calibration.source import Source, open_source  # noqa: E402
from engines.ort import open_ort  # noqa: E402
from validation.predict import predict  # noqa: E402
from validation.segmentation import evaluate_segmentation  # noqa: E402

RECIPE = ROOT / "recipes" / "espnet_half_distilled.yaml"
GAIN, ROUNDING = 0.01, 1e-9
LABELS = "labels"
TAUGHT = "recipe"
PLACES = ["encoder.classifier", "encoder.b3"]
OTHERS: dict[str, dict[str, Any]] = {
    "soft": {"kind": "soft", "temperature": 1},
    "cwd": {"kind": "cwd"},
    "attention": {"kind": "attention", "taps": PLACES},
    "mgd": {"kind": "mgd", "taps": ["encoder.b3"]},
}
"""Each beside `labels`, in place of what the recipe has."""


def main() -> None:
    """Train every arm with every seed, print the table, and end with 1 when the gain is too small."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--arms", nargs="+", default=[LABELS, TAUGHT], choices=[LABELS, TAUGHT, *OTHERS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, help="default: those of the recipe")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    torch.set_num_threads(arguments.threads)
    job = open_job(Path(arguments.data_root), arguments.epochs)
    found: dict[str, list[float]] = {arm: [] for arm in arguments.arms}
    for seed in arguments.seeds:
        for arm in arguments.arms:
            start = time.monotonic()
            found[arm].append(train_one(job, arm, seed))
            print(f"{arm}, seed {seed}: mIoU {found[arm][-1]:.4f}, {time.monotonic() - start:.0f} s", flush=True)
    table(found)
    gains = [statistics.mean(found[TAUGHT]) - statistics.mean(found[LABELS])] if {LABELS, TAUGHT} <= set(found) else []
    sys.exit(0 if all(gain > GAIN - ROUNDING for gain in gains) else 1)


class Job(NamedTuple):
    """A recipe, its `distill` stage, and the images that it names."""

    recipe: Recipe
    stage: Distill
    data_root: Path
    train: Source
    validation: Source


def open_job(data_root: Path, epochs: float | None = None) -> Job:
    """Read the recipe and open its images."""
    recipe = load_recipe(RECIPE)
    stage = next(stage for stage in recipe.stages if isinstance(stage, Distill))
    if epochs is not None:
        stage = stage.model_copy(update={"epochs": epochs, "steps": None})
    sources = [open_source(each, data_root, recipe.classes) for each in (recipe.data.train, recipe.data.validation)]
    return Job(recipe, stage, data_root, *sources)


def losses_of(job: Job, arm: str) -> Any:
    """What an arm makes small."""
    if arm == TAUGHT:
        return job.stage.losses
    return [{"kind": "labels"}, *([OTHERS[arm]] if arm in OTHERS else [])]


def train_one(job: Job, arm: str, seed: int) -> float:
    """The mIoU of one arm's network after one training."""
    settings = job.stage.model_dump() | {"losses": losses_of(job, arm), "seed": seed}
    return measure(job, trained(job, Distill.model_validate(settings), seed))


def trained(job: Job, stage: Distill, seed: int) -> torch.nn.Module:
    """The recipe's network after one training; the seed is also that of its first weights."""
    model = TorchModel.model_validate(job.recipe.model.model_dump())
    seeded = model.model_copy(update={"args": {**model.args, "seed": seed}})
    student = load_torch(seeded, job.data_root, RECIPE.parent)
    teacher = load_teacher(stage, student, job.recipe.preprocess.size, job.data_root, RECIPE.parent)
    loss = TaskLoss(lambda outputs, samples: cross_entropy(outputs, samples, stage.loss_args.get("class_weights")))
    done = distill(Artifact(student), stage, job.train, job.recipe.preprocess, Guidance(teacher, loss=loss))
    module: torch.nn.Module = done.model
    return module


def measure(job: Job, module: torch.nn.Module) -> float:
    """The mIoU of a module's export on the validation images, at the labels' own size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(to_onnx(module, job.recipe.preprocess.size).SerializeToString())
        with open_ort(path, optimize=True) as session:
            pairs: Any = predict(session, job.validation, job.recipe.preprocess, job.recipe.task)
            return float(evaluate_segmentation(pairs, job.recipe.classes or ()).metrics["mIoU"])


def table(found: dict[str, list[float]]) -> None:
    """Print a line for each arm: its seeds' mIoU, their mean, and the difference to labels alone."""
    base = statistics.mean(found[LABELS]) if LABELS in found else None
    print("\n| losses | mIoU by seed | mean | beside labels alone |\n|---|---|---|---|")
    for arm, values in found.items():
        mean = statistics.mean(values)
        gain = "" if base is None else f"{100 * (mean - base):+.1f} points"
        print(f"| {arm} | {', '.join(f'{value:.4f}' for value in values)} | {mean:.4f} | {gain} |")


if __name__ == "__main__":
    main()
