"""The `train` and `distill` stages of a recipe: steps of a run that, killed, go on from their last checkpoint."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from avcompress import __version__, ranks
from avcompress.checkpoint import load_decisions, save_decisions
from avcompress.files import write_atomically
from avcompress.recipe import FloatTraining
from avcompress.recipe_distill import Distill
from avcompress.recipe_training import Training
from avcompress.running.bench import Bench
from avcompress.running.early_stop import judge
from avcompress.running.task_loss import loss_code, task_loss
from avcompress.running.teaching import distilling, images_of, teacher_code
from avcompress.spec import Artifact, Track
from avcompress.state import step_key

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from avcompress.train import Around

WEIGHTS = "weights.safetensors"
SKIPPED = "skipped.json"
LOGS = "logs"
Export = Callable[["nn.Module"], "onnx.ModelProto"]
"""What makes the network of a module."""
Work = Callable[[Artifact, "Around"], Artifact]
"""What trains an artifact's module."""


def train_stages(bench: Bench, artifact: Artifact, key: str, export: Export) -> tuple[Artifact, str]:
    """Take the steps of the stages that train the float network, in their order; the artifact's model is a module.

    Returns the artifact with the trained module, and the key of its last step.
    """
    for index, stage in enumerate(bench.recipe.stages):
        if isinstance(stage, FloatTraining):
            work, made = _work(bench, index, stage, artifact)
            preprocess, images = bench.recipe.preprocess.model_dump(), images_of(bench).fingerprint
            key = step_key(stage.kind, key, stage.model_dump(), preprocess, images, made)
            artifact = _train(bench, index, stage, artifact, _Task(key, work, made, export))
    return artifact, key


def train_folders(bench: Bench) -> list[Path]:
    """The folders of the steps that train the float network."""
    stages = enumerate(bench.recipe.stages)
    return [bench.state.folder / f"{i}-{stage.kind}" for i, stage in stages if isinstance(stage, FloatTraining)]


def _work(bench: Bench, index: int, stage: FloatTraining, artifact: Artifact) -> tuple[Work, list[str]]:
    """What a stage does, and the hashes of the files that this depends on."""
    if isinstance(stage, Distill):
        return distilling(bench, index, stage, artifact), teacher_code(bench, index, stage.teacher)
    loss = task_loss(bench, index, stage)

    def work(artifact: Artifact, around: Around) -> Artifact:
        from avcompress.train import train

        return train(artifact, stage, images_of(bench), bench.recipe.preprocess, around, loss)

    return work, loss_code(bench, index, stage)


class _Task(NamedTuple):
    """One stage to train by: its step's key, what it does, the hashes of files it depends on, what exports it."""

    key: str
    work: Work
    made: list[str]
    export: Export


def _train(bench: Bench, index: int, stage: FloatTraining, artifact: Artifact, task: _Task) -> Artifact:
    from avcompress.export import load_state_, state_to_safetensors

    name = f"{index}-{stage.kind}"

    def compute(folder: Path, track: Track) -> None:
        with around(bench, name, stage, task.made, task.export, track) as surroundings:
            trained = task.work(artifact, surroundings)
        write_atomically(folder / WEIGHTS, state_to_safetensors(trained.model))
        save_decisions(trained, folder)
        write_atomically(folder / SKIPPED, json.dumps(images_of(bench).skipped))

    folder = bench.step(name, f"{stage.kind}, {length(stage)}", task.key, compute, together=True)
    if ranks.leads():
        shutil.rmtree(under_way(bench, name), ignore_errors=True)
    load_state_(artifact.model, (folder / WEIGHTS).read_bytes())
    artifact.model.eval()
    return load_decisions(folder, artifact.model)


def length(stage: Training) -> str:
    """How long it trains, for people."""
    return f"{stage.steps} steps" if stage.steps is not None else f"{stage.epochs:g} epochs"


def under_way(bench: Bench, name: str) -> Path:
    """Where the checkpoints of a step lie that is not finished."""
    return bench.state.folder / f"{name}-under-way"


@contextlib.contextmanager
def around(bench: Bench, name: str, stage: Training, made: list[str], export: Export, track: Track) -> Iterator[Around]:
    """What surrounds the loop of a step that trains: checkpoints, the contract's metric, a log.

    Args:
        bench: of the run.
        name: of the step.
        stage: its settings.
        made: hashes of the files that its loss and its teacher come from.
        export: makes the network whose metric counts.
        track: watches the steps.
    """
    from avcompress.train import Around, Store
    from avcompress.train.logs import opened_log

    belongs = {
        "data": images_of(bench).fingerprint,
        "preprocess": bench.recipe.preprocess.model_dump(mode="json"),
        "loss or teacher: its files have changed": made,
        "version of avcompress": __version__,
    }
    measure = judge(bench, export) if stage.validate_every is not None else None
    with contextlib.ExitStack() as stack:
        write = None
        if stage.log is not None and ranks.leads():
            write = stack.enter_context(opened_log(stage.log, bench.job.out / LOGS, name))
        yield Around(track=track, judge=measure, store=Store(under_way(bench, name), belongs), log=write)
