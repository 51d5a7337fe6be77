"""Smaller networks beside Torch-Pruning's: the same network, as fast as measured, recovered by the same training.

    python benchmarks/prune_vs_peers.py --data-root DATA --out OUT [--tasks T ...] [--arms A ...] [--prune-only]

A task is a recipe with stages that make a network smaller, then `distill`. `ours` is those stages as a run takes them;
`ours-pruning-alone` is one `prune` stage instead, asked for the speed-up that they reached. A peer knows no latency: it
prunes globally, one ratio for all, in widths of eight; the ratio is bisected until its network takes as long on the
stages' backend as ours does, measured in turns, at most 2 % longer. From there on everything is the same: each smaller
network is imported from ONNX, its normalization kept where it has any, and trained by the recipe's `distill` stage, the
network before them its teacher, with the same images, seed and steps.

Torch-Pruning 1.6.1 has two arms: GroupTaylorImportance and GroupMagnitudeImportance, both with their defaults. Taylor
has gradients of the labels' cross entropy where there are labels to learn from (ESPNet), else of the sum of squares of
the outputs (YOLOX), over as many images as ours by default; ours has no labels in either.

Every result is kept in OUT/TASK/ARM, and what is there is not computed again: arms can be run one by one, `ours` first.
With --prune-only nothing is trained: latency is best measured on a quiet machine, one process at a time, while
recoveries may run side by side. Prints a Markdown table of all results found, and writes it to OUT/TASK/table.md. Ends
with 1 where ours is more than 0.001 below the best peer after recovery.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from peers.equal_latency import SLOWER, Try, slowest_first, tried  # noqa: E402
from peers.peer_environment import InstallError  # noqa: E402
from peers.prune_rows import BEHIND, DENSE, OURS, behind, markdown, read_rows  # noqa: E402
from peers.torch_pruning_arm import (  # noqa: E402
    MAGNITUDE,
    MOST,
    TAYLOR,
    PeerError,
    Prunable,
    as_modules,
    install,
    pruned,
    take_gradients_,
)

from avcompress.files import write_atomically  # noqa: E402
from avcompress.float_network import deployed, with_output  # noqa: E402
from avcompress.prune.latency.measure import latencies_ms, structure_digest  # noqa: E402
from avcompress.recipe import Engine, Recipe, Shrinking  # noqa: E402
from avcompress.recipe_distill import Distill  # noqa: E402
from avcompress.recipe_load import load_recipe  # noqa: E402
from avcompress.recipe_network import OnnxModel, TorchModel  # noqa: E402
from avcompress.recipe_prune import Prune  # noqa: E402
from avcompress.running.bench import Bench, Job, prepare  # noqa: E402
from avcompress.running.choosing import Batches, few  # noqa: E402
from avcompress.running.early_stop import judge, judged_metric  # noqa: E402
from avcompress.running.float_model import FloatModel, digest, from_factory, from_file, smaller  # noqa: E402
from avcompress.running.shrinking import shrink  # noqa: E402
from avcompress.running.targeting import engine_of  # noqa: E402
from avcompress.running.teaching import images_of  # noqa: E402
from avcompress.running.training import Place, train_step  # noqa: E402
from avcompress.spec import Artifact, AvcompressError, untracked  # noqa: E402
from avcompress.state import step_key  # noqa: E402
from avcompress.train import load  # noqa: E402
from avcompress.train.pixels import cross_entropy  # noqa: E402
from avcompress.watch import PlainWatch  # noqa: E402
from calibration.source import Source, open_source  # noqa: E402
from engines.network import network_inputs  # noqa: E402
from engines.onnx_graph import parameters, total_macs  # noqa: E402
from engines.onnx_load import load_onnx  # noqa: E402

ALONE = "ours-pruning-alone"
ARMS = {OURS: None, ALONE: None, "torch-pruning-taylor": TAYLOR, "torch-pruning-magnitude": MAGNITUDE}
TRIES = 10
IMAGES = 64
"""That the peer's importance is of: as many as ours by default."""
PRUNED, RESULT = "pruned.onnx", "result.json"


class Task(NamedTuple):
    """What a recipe does not say.

    Attributes:
        recipe: its file's name in recipes/.
        kept: patterns of the modules that give the output, as the peer has to be told.
        labelled: where data.validation changes to be the labels to learn from; None without any.
    """

    recipe: str
    kept: tuple[str, ...]
    labelled: dict[str, str] | None = None


TASKS = {
    "espnet": Task(
        "espnet_camvid_pruned.yaml",
        ("classifier",),
        {"images": "camvid/images/train", "labels": "camvid/labels/train"},
    ),
    # Class, box and object predictions at three strides.
    "yolox": Task(
        "yolox_nano_faster.yaml",
        tuple(f"Conv_{number}" for number in (314, 327, 328, 347, 360, 361, 380, 393, 394)),
    ),
}


def main() -> None:
    """Run the arms asked for, print what is known of every task, and end with 1 where a peer is better."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    lost = []
    for name in arguments.tasks:
        folder = arguments.out / name
        try:
            recipe = load_recipe(recipe_path(name, arguments))
            for arm in sorted(arguments.arms, key=list(ARMS).index):
                run(Setting(name, arm, recipe, arguments))
        except AvcompressError as error:
            print(f"{name}: {error}", file=sys.stderr)
            sys.exit(2)
        rows = read_rows(folder, list(ARMS))
        table = markdown(recipe.name, judged_metric(recipe, recipe.classes or ()), rows)
        write_atomically(folder / "table.md", table)
        print(f"\n{table}", flush=True)
        lost.append(behind(rows))
    sys.exit(1 if any(each is not None and each > BEHIND for each in lost) else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--out", type=Path, default=Path("out/prune_vs_peers"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--recipe", type=Path, help="of the task, the only one then; default: the shipped one")
    parser.add_argument("--steps", type=int, help="of recovery; default: what the recipe says")
    parser.add_argument("--seconds", type=float, default=4.0, help="of runs of each network in a measurement")
    parser.add_argument("--prune-only", action="store_true", help="leave the recovery for later")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    if arguments.recipe is not None and len(arguments.tasks) != 1:
        parser.error("--recipe: expected one of --tasks beside it")
    arguments.data_root, arguments.out = Path(arguments.data_root).resolve(), arguments.out.resolve()
    return arguments


def recipe_path(task: str, arguments: argparse.Namespace) -> Path:
    return Path(arguments.recipe or ROOT / "recipes" / TASKS[task].recipe).resolve()


@dataclass(frozen=True)
class Setting:
    """One arm on one task; what it opens stays open."""

    task: str
    arm: str
    recipe: Recipe
    arguments: argparse.Namespace

    @property
    def folder(self) -> Path:
        """Where its results are."""
        return Path(self.arguments.out) / self.task / self.arm

    def beside(self, arm: str) -> Path:
        """Where another arm's results are."""
        return self.folder.with_name(arm)

    @cached_property
    def bench(self) -> Bench:
        """A run of the recipe in this arm's folder."""
        path = recipe_path(self.task, self.arguments)
        job = Job(self.recipe, path, self.arguments.data_root, self.folder, resume=True)
        return prepare(job, PlainWatch(Console()))

    @cached_property
    def model(self) -> FloatModel:
        """The network before anything is done to it."""
        settings = self.recipe.model
        if isinstance(settings, OnnxModel):
            network = load_onnx(self.bench.inputs["model.onnx"], self.recipe.preprocess.size)
            return from_file(network := with_output(network, settings.output), Artifact(network))
        if not isinstance(settings, TorchModel):
            raise AvcompressError(f"{self.task}: expected a recipe with an ONNX file or a factory, got another model")
        return from_factory(self.bench, settings)

    @cached_property
    def dense(self) -> onnx.ModelProto:
        """The same as ONNX, with its normalization."""
        network: onnx.ModelProto = self.model.whole(self.model.artifact.model)
        return network

    @cached_property
    def shrinking(self) -> list[tuple[int, Shrinking]]:
        """The recipe's stages before `distill` that make the network smaller, with their places."""
        stages = list(enumerate(self.recipe.stages))[: self.distill[0]]
        found = [(index, stage) for index, stage in stages if isinstance(stage, Shrinking)]
        if not found:
            raise AvcompressError(
                f"{self.task}: expected a recipe with `rewrite` or `prune` before `distill`, got none"
            )
        return found

    @cached_property
    def engine(self) -> Engine:
        """What latency is measured on."""
        index, stage = self.shrinking[0]
        return engine_of(self.bench.engines, getattr(stage, "backend", None), f"stages[{index}]")

    @cached_property
    def distill(self) -> tuple[int, Distill]:
        """The recipe's first `distill` stage, as long as it is asked for, and its place."""
        steps = self.arguments.steps
        for index, stage in enumerate(self.recipe.stages):
            if isinstance(stage, Distill):
                return index, stage if steps is None else stage.model_copy(update={"steps": steps, "epochs": None})
        raise AvcompressError(f"{self.task}: expected a recipe with `distill`, got one without")

    def takes_ms(self, networks: Sequence[onnx.ModelProto], times: float = 1.0) -> list[float]:
        """The latencies of networks as they are deployed, in turns."""
        return latencies_ms([deployed(each) for each in networks], self.engine, times * self.arguments.seconds)

    def metric(self, network: onnx.ModelProto) -> float:
        """On the recipe's validation images, by ONNX Runtime."""
        return judge(self.bench, lambda given: given)(network)  # type: ignore[arg-type, return-value]


# --- an arm


def run(setting: Setting) -> None:
    """Prune where there is no pruned network yet, and train where there is none trained."""
    result = known(setting.folder)
    if "pruned" not in result:
        print(f"{setting.task}: {setting.arm}: prune ...", flush=True)
        try:
            result = ARM_OF.get(setting.arm, prune_theirs)(setting)
        except (PeerError, InstallError, ValueError) as error:
            return keep(setting.folder, {"arm": setting.arm, "note": f"failed: {error}"})
        keep(setting.folder, result)
    steps = setting.distill[1].count_steps(len(images_of(setting.bench)))
    if not setting.arguments.prune_only and result.get("steps") != steps:
        print(f"{setting.task}: {setting.arm}: train {steps} steps ...", flush=True)
        keep(setting.folder, {**result, **recovered(setting), "steps": steps})
    return None


def known(folder: Path) -> dict[str, Any]:
    """What was found before; nothing where an earlier try failed."""
    path = folder / RESULT
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return result


def keep(folder: Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RESULT, json.dumps(result, indent=1) + "\n")


def prune_ours(setting: Setting) -> dict[str, Any]:
    """The recipe's stages, as a run takes them; what is known of the dense network is kept, too."""
    start = time.monotonic()
    model = setting.model
    for index, stage in setting.shrinking:
        model, _ = shrink(setting.bench, index, stage, model)
    seconds = time.monotonic() - start
    network = model.whole(model.artifact.model)
    before, after = setting.takes_ms([setting.dense, network], 3)
    facts = sizes(setting.dense) | {"latency_ms": before, "pruned": setting.metric(deployed(setting.dense))}
    keep(setting.beside(DENSE), {"arm": DENSE, **facts, "of_dense": 1.0, "of_ours": before / after})
    save(setting.folder, network)
    ratios = {"latency_ms": after, "of_dense": after / before, "of_ours": 1.0}
    return {"arm": OURS, **sizes(network), **ratios, "pruned": setting.metric(deployed(network)), "pruning_s": seconds}


def prune_alone(setting: Setting) -> dict[str, Any]:
    """Our `prune` stage alone, asked to be as fast."""
    ours = onnx.load(str(path_of_ours(setting)))
    speedup = 1 / known(setting.beside(OURS))["of_dense"]
    start = time.monotonic()
    stage = Prune(kind="prune", speedup=speedup, backend=setting.engine.backend)  # type: ignore[arg-type]
    model, _ = shrink(setting.bench, 0, stage, setting.model)
    seconds = time.monotonic() - start
    network = model.whole(model.artifact.model)
    dense_ms, ours_ms, own_ms = setting.takes_ms([setting.dense, ours, network], 3)
    save(setting.folder, network)
    ratios = {"latency_ms": own_ms, "of_dense": own_ms / dense_ms, "of_ours": own_ms / ours_ms}
    found = {"pruned": setting.metric(deployed(network)), "pruning_s": seconds}
    return {"arm": setting.arm, **sizes(network), **ratios, **found}


ARM_OF = {OURS: prune_ours, ALONE: prune_alone}


def path_of_ours(setting: Setting) -> Path:
    """Our network; raises AvcompressError where there is none yet."""
    path = setting.beside(OURS) / PRUNED
    if not path.exists():
        raise AvcompressError(f"{setting.arm}: expected ours to be as fast as, got no {path}; run the arm `ours` first")
    return path


def prune_theirs(setting: Setting) -> dict[str, Any]:
    """The peer's network that is as fast as ours; raises PeerError where it has none."""
    ours = onnx.load(str(path_of_ours(setting)))
    install(Path(setting.arguments.out) / "environments")
    start = time.monotonic()
    prunable = theirs(setting)
    importance_s = time.monotonic() - start
    networks: dict[float, onnx.ModelProto] = {}

    def measure(ratio: float) -> Try:
        networks[ratio] = pruned(prunable, ratio)
        mine, other = setting.takes_ms([ours, networks[ratio]])
        print(f"{setting.arm}: ratio {ratio:.4f} takes {other / mine:.3f} of ours", flush=True)
        return Try(ratio, other / mine, structure_digest(networks[ratio]))

    start = time.monotonic()
    tries = tried(measure, TRIES, MOST)
    search_s = time.monotonic() - start
    chosen, times = confirmed(setting, ours, networks, tries)
    network = networks[chosen.ratio]
    save(setting.folder, network)
    dense_ms, ours_ms, own_ms = times
    ratios = {"latency_ms": own_ms, "of_dense": own_ms / dense_ms, "of_ours": own_ms / ours_ms}
    note = f"ratio {chosen.ratio:.4f}, {len(tries)} networks tried"
    if own_ms * SLOWER < ours_ms:
        note += "; FASTER than ours by more than 2 %: none closer was found, measure again on a quiet machine"
    facts = {"pruning_s": importance_s + search_s, "ratio": chosen.ratio, "note": note, "tries": tries}
    return {"arm": setting.arm, **sizes(network), **ratios, "pruned": setting.metric(deployed(network)), **facts}


def confirmed(
    setting: Setting, ours: onnx.ModelProto, networks: dict[float, onnx.ModelProto], tries: Sequence[Try]
) -> tuple[Try, list[float]]:
    """The slowest network that a longer measurement allows, too; with the latencies of the dense, ours and itself."""
    for each in (allowed := slowest_first(tries)):
        times = setting.takes_ms([setting.dense, ours, networks[each.ratio]], 3)
        if times[2] <= SLOWER * times[1]:
            return each, times
    raise PeerError(f"expected one of {len(allowed)} networks to be as fast in a longer measurement, got none")


def theirs(setting: Setting) -> Prunable:
    """The network as the peer takes it, with gradients where importance is of them."""
    importance = ARMS[setting.arm] or MAGNITUDE
    original = isinstance(setting.recipe.model, TorchModel)
    module = setting.model.artifact.model if original else as_modules(setting.dense)
    if importance == TAYLOR:
        batches, loss = lesson(setting)
        take_gradients_(module, batches, loss)
    (name,) = network_inputs(setting.dense)
    return Prunable(module, setting.recipe.preprocess.size, name, TASKS[setting.task].kept, importance, original)


def lesson(setting: Setting) -> tuple[Batches, Any]:
    """As many images as ours, and a loss: of the labels where there are some, else the sum of squares."""
    labelled = TASKS[setting.task].labelled
    images: Source = images_of(setting.bench)
    if labelled is not None:
        settings = setting.recipe.data.validation.model_copy(update=labelled)  # type: ignore[union-attr]
        images = open_source(settings, setting.arguments.data_root, setting.recipe.classes)
    dataset = load(few(images, IMAGES), setting.recipe.preprocess, untracked, labels=labelled is not None)
    return Batches(dataset), cross_entropy if labelled else lambda outputs, _: outputs.square().sum()


# --- the same for every arm


def recovered(setting: Setting) -> dict[str, Any]:
    """Train the pruned network by the recipe's stage, the network before pruning its teacher."""
    network = onnx.load(str(setting.folder / PRUNED))
    key = step_key("pruned", digest(network))
    model = smaller(setting.model, Artifact(network), key)
    index, stage = setting.distill
    start = time.monotonic()
    model, folder = train_step(setting.bench, Place(f"stages[{index}]", f"{index}-distill"), stage, model)
    seconds = json.loads((folder / "step.json").read_text()).get("seconds", time.monotonic() - start)
    trained = model.export(model.artifact.model)
    onnx.save(trained, str(setting.folder / "recovered.onnx"))
    return {"recovered": setting.metric(trained), "recovery_s": seconds}


def save(folder: Path, network: onnx.ModelProto) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(network, str(folder / PRUNED))


def sizes(network: onnx.ModelProto) -> dict[str, int]:
    """As it is deployed: normalization is no multiplication of its own, and its statistics are no weights."""
    plain = deployed(network)
    return {"parameters": parameters(plain), "macs": total_macs(plain)}


if __name__ == "__main__":
    main()
