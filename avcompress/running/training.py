"""The `train` and `distill` stages of a recipe: steps of a run that, killed, go on from their last checkpoint."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from avcompress import __version__, ranks
from avcompress.checkpoint import load_decisions, save_decisions
from avcompress.files import write_atomically
from avcompress.recipe import FloatTraining
from avcompress.recipe_distill import Distill
from avcompress.recipe_training import Training
from avcompress.running.bench import Bench
from avcompress.running.early_stop import judge
from avcompress.running.float_model import Export, FloatModel
from avcompress.running.task_loss import loss_code, task_loss
from avcompress.running.teaching import distilling, images_of, teacher_code
from avcompress.running.zeros import check_kept, sparse_line
from avcompress.spec import Artifact, Sparsity, Track
from avcompress.state import step_key

if TYPE_CHECKING:
    from torch import fx

    from avcompress.train import Around, Zeros

WEIGHTS = "weights.safetensors"
SKIPPED = "skipped.json"
LOGS = "logs"
Work = Callable[[Artifact, "Around"], Artifact]
"""What trains an artifact's module."""


class Place(NamedTuple):
    """Where a stage that trains stands.

    Attributes:
        where: in the recipe: `stages[1]`, or `stages[1].recover`.
        step: the name of its step: `1-distill`.
    """

    where: str
    step: str


class Growth(NamedTuple):
    """Zeros that become more while a network trains.

    Attributes:
        zeros: makes them, of the module, the prefix of its parameters in what is trained, and the number of steps.
        known: what decides them.
        sparse: what the artifact's weights are afterwards.
    """

    zeros: Callable[[fx.GraphModule, str, int], Zeros]
    known: Sequence[Any]
    sparse: Mapping[str, Sparsity] = {}


def train_step(
    bench: Bench, place: Place, stage: FloatTraining, model: FloatModel, growth: Growth | None = None
) -> tuple[FloatModel, Path]:
    """Take the step of a stage that trains the float network; returns the trained one, and the step's folder.

    The zeros of its sparse weights stay, and with `growth` more come.
    """
    from avcompress.export import load_state_, state_to_safetensors

    settings = _settled(stage, model)
    work, made = _work(bench, place.where, settings, model)
    if growth:
        made = [*made, step_key("growth", *growth.known)]
    key = step_key(stage.kind, model.key, settings.model_dump(), seen_by(bench), made)

    def compute(folder: Path, track: Track) -> None:
        with around(bench, place.step, settings, made, model.export, track) as surroundings:
            trained = work(model.artifact, replace(surroundings, zeros=_zeros(bench, stage, model, growth)))
        trained = _checked(trained, model, growth)
        write_atomically(folder / WEIGHTS, state_to_safetensors(trained.model))
        save_decisions(trained, folder)
        write_atomically(folder / SKIPPED, json.dumps(images_of(bench).skipped))

    folder = bench.step(place.step, f"{stage.kind}, {length(stage)}", key, compute, together=True)
    if ranks.leads():
        shutil.rmtree(under_way(bench, place.step), ignore_errors=True)
    module = model.artifact.model
    load_state_(module, (folder / WEIGHTS).read_bytes())
    module.eval()
    return replace(model, artifact=load_decisions(folder, module), key=key), folder


def _zeros(bench: Bench, stage: FloatTraining, model: FloatModel, growth: Growth | None) -> Zeros | None:
    """What stays 0 in the training of a stage; None where anything may change."""
    from avcompress.prune.sparsity import keep_zeros
    from avcompress.train import joined

    prefix = "student." if isinstance(stage, Distill) else ""
    module, sparse = model.artifact.model, model.artifact.sparse
    parts = [keep_zeros(module, sparse, prefix)] if sparse else []
    if growth:
        parts.append(growth.zeros(module, prefix, stage.count_steps(len(images_of(bench)))))
    return joined(parts) if parts else None


def _checked(trained: Artifact, model: FloatModel, growth: Growth | None) -> Artifact:
    """The trained artifact with the weights that have become sparse, once all have the zeros that they should have."""
    if growth and growth.sparse:
        trained = replace(trained, sparse={**trained.sparse, **growth.sparse})
    if trained.sparse:
        network = replace(trained, model=model.export(trained.model))
        check_kept(model.network, network)
        trained = replace(trained, log=(*trained.log, sparse_line(network)))
    return trained


def seen_by(bench: Bench) -> tuple[Any, ...]:
    """What stands for the images that a network learns from, as it sees them."""
    return bench.recipe.preprocess.model_dump(), images_of(bench).fingerprint


def _settled(stage: FloatTraining, model: FloatModel) -> FloatTraining:
    """The settings with what normalization does, where the recipe leaves it to the network."""
    usual = "frozen" if model.stored_norms else "train"
    return stage if stage.batch_norm is not None else stage.model_copy(update={"batch_norm": usual})


def _work(bench: Bench, where: str, stage: FloatTraining, model: FloatModel) -> tuple[Work, list[str]]:
    """What a stage does, and the hashes of the files that this depends on."""
    if isinstance(stage, Distill):
        made = [*teacher_code(bench, where, stage.teacher), *loss_code(bench, where, stage)]
        return distilling(bench, where, stage, model), made
    loss = task_loss(bench, where, stage) or model.loss

    def work(artifact: Artifact, around: Around) -> Artifact:
        from avcompress.train import train

        return train(artifact, stage, images_of(bench), bench.recipe.preprocess, around, loss)

    return work, loss_code(bench, where, stage)


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
        made: hashes of the files that its loss and its teacher come from, and of what else decides its result.
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
