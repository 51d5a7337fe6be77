"""The stages before quantization, in their order: what trains the float network, and what makes it smaller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from avcompress import ranks
from avcompress.checkpoint import save_artifact
from avcompress.files import atomic_folder
from avcompress.float_network import deployed, saved_network, with_output
from avcompress.recipe import FloatTraining, Recipe, Shrinking
from avcompress.recipe_network import OnnxModel, SavedModel, TorchModel
from avcompress.running.bench import Bench
from avcompress.running.float_model import FloatModel, digest, from_factory, from_file, from_structure
from avcompress.running.generating import generate_images
from avcompress.running.rehearsing import rehearse
from avcompress.running.shrinking import count_steps, shrink
from avcompress.running.training import Place, train_step
from avcompress.spec import Artifact, Track
from avcompress.state import step_key
from engines.onnx_load import load_onnx

KEPT, SMALLER = "network", "smaller"
"""The steps that hold the float network as ONNX: the one that drops are measured against, and what was made of it."""


class FloatPart(NamedTuple):
    """What the float stages gave, as folders of steps.

    Attributes:
        reference: holds the network that accuracy drops are measured against.
        network: holds the one that the stages after them take; the same where nothing has made it smaller.
        steps: all of them, in their order.
    """

    reference: Path
    network: Path
    steps: tuple[Path, ...]


def take_float_stages(bench: Bench) -> FloatPart:
    """Load the recipe's network and take it through its float stages; each one is a step that resumes."""
    match bench.recipe.model:
        case OnnxModel(onnx=file):
            path = bench.inputs["model.onnx"]
            # Read before the step: its key is what was read, external weights and all, not what one file holds.
            network = with_output(load_onnx(path, bench.recipe.preprocess.size), bench.recipe.model.output)
            rehearse(bench, network, str(path))
            generate_images(bench, network, step_key("imported", digest(network)))
            artifact = Artifact(network, log=(f"read {Path(file).name}",))
            if not any(float_stages(bench.recipe)):  # torch need not be there
                kept = keep_float(bench, artifact)
                return FloatPart(kept, kept, (kept,))
            return _take(bench, from_file(network, artifact))
        case SavedModel(structure=folder):
            network = with_output(saved_network(bench.inputs["model.structure"]), bench.recipe.model.output)
            artifact = Artifact(network, log=(f"read {Path(folder).name}",))
            rehearse(bench, deployed(network), folder)
            return _take(bench, from_structure(network, artifact))
        case TorchModel() as settings:
            return _take(bench, from_factory(bench, settings))


def float_stages(recipe: Recipe) -> Iterator[tuple[int, FloatTraining | Shrinking]]:
    """The stages that a recipe's float network goes through, with their places."""
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, FloatTraining | Shrinking):
            yield index, stage


def _take(bench: Bench, model: FloatModel) -> FloatPart:
    steps: list[Path] = []
    reference = None
    for index, stage in float_stages(bench.recipe):
        if reference is None and isinstance(stage, Shrinking):
            reference = keep_float(bench, model.network)
            steps.append(reference)
        model, taken = _take_stage(bench, index, stage, model)
        steps += taken
    network = keep_float(bench, model.network, KEPT if reference is None else SMALLER)
    if reference is not None and ranks.leads():
        _leave(bench, model)
    return FloatPart(reference or network, network, (*steps, network))


def _take_stage(
    bench: Bench, index: int, stage: FloatTraining | Shrinking, model: FloatModel
) -> tuple[FloatModel, tuple[Path, ...]]:
    if isinstance(stage, FloatTraining):
        trained, folder = train_step(bench, Place(f"stages[{index}]", f"{index}-{stage.kind}"), stage, model)
        return trained, (folder,)
    return shrink(bench, index, stage, model)


def keep_float(bench: Bench, artifact: Artifact, name: str = KEPT) -> Path:
    """Take the step that holds a float network, which is read or exported by then."""

    def save(folder: Path, track: Track) -> None:  # noqa: ARG001
        save_artifact(artifact, folder)

    title = "keep the float network" if name == KEPT else "keep the smaller network"
    return bench.step(name, title, step_key(name, digest(artifact.model), dict(artifact.sparse)), save)


def _leave(bench: Bench, model: FloatModel) -> None:
    """Write the smaller network as a plain checkpoint: another recipe may go on with it as its `model`."""
    from avcompress.structure import save_structure

    with atomic_folder(bench.job.out / SMALLER) as folder:
        save_structure(model.whole(model.artifact.model), folder)


def count_float_steps(recipe: Recipe) -> int:
    """The steps that the float stages take, with those that keep the float network and what was made of it."""
    stages = [stage for _, stage in float_stages(recipe)]
    smaller = any(isinstance(stage, Shrinking) for stage in stages)
    return sum(count_steps(stage) if isinstance(stage, Shrinking) else 1 for stage in stages) + 1 + smaller
