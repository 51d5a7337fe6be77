"""The stages that make the float network smaller: steps that turn a module into a graph of fewer or sparser weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_never

from avcompress.checkpoint import load_artifact, save_artifact
from avcompress.files import write_atomically
from avcompress.recipe import FloatTraining, Shrinking
from avcompress.recipe_prune import Prune, Sparsify
from avcompress.running.alignment import alignment_of
from avcompress.running.bench import Bench
from avcompress.running.choosing import Chooser, made_by
from avcompress.running.float_model import FloatModel, as_graph, smaller
from avcompress.running.pruning import faded, fading, prune
from avcompress.running.sparsifying import growing, sparsify
from avcompress.running.teaching import images_of
from avcompress.running.training import SKIPPED, Place, seen_by, train_step
from avcompress.spec import Artifact, Track
from avcompress.state import step_key

if TYPE_CHECKING:
    import onnx

Taken = tuple[FloatModel, tuple[Path, ...]]
"""The network after a stage, and the folders of its steps."""
Make = Callable[[Artifact, Track], Artifact]
"""What a step does to the artifact of a whole ONNX network."""


def shrink(bench: Bench, index: int, stage: Shrinking, model: FloatModel) -> Taken:
    """Take the steps of one stage; `index` is its place in the recipe."""
    match stage:
        case Prune():
            return _prune(bench, index, stage, model)
        case Sparsify():
            return _sparsify(bench, index, stage, model)
        case _:
            assert_never(stage)


def count_steps(stage: Shrinking) -> int:
    """How many steps a stage takes."""
    match stage:
        case Prune():
            return 2 if stage.schedule == "during_training" else stage.parts * (1 if stage.recover is None else 2)
        case Sparsify():
            return 1
        case _:
            assert_never(stage)


def _prune(bench: Bench, index: int, stage: Prune, model: FloatModel) -> Taken:
    alignment = stage.alignment or alignment_of(bench.recipe)
    chooser = Chooser(bench, f"stages[{index}]", stage.model_copy(update={"alignment": alignment}), model)
    if stage.schedule == "during_training" and stage.recover is not None:
        return _prune_in_training(chooser, index, stage.recover)
    folders: list[Path] = []
    start = model.whole(model.artifact.model)
    for part in range(1, stage.parts + 1):
        end = f"-{part}" if stage.parts > 1 else ""
        model, folder = _prune_once(replace(chooser, model=model), f"{index}-prune{end}", start, part)
        folders.append(folder)
        if stage.recover is not None:
            place = Place(f"{chooser.where}.recover", f"{index}-recover{end}")
            model, folder = train_step(bench, place, stage.recover, model)
            folders.append(folder)
    return model, tuple(folders)


def _prune_once(chooser: Chooser[Prune], name: str, start: onnx.ModelProto, part: int) -> tuple[FloatModel, Path]:
    stage, key = chooser.stage, chooser.model.key
    key = step_key("prune", key, stage.model_dump(exclude={"recover"}), part, seen_by(chooser.bench), made_by(chooser))
    return _step(chooser, (name, f"prune ({_goal(stage)})"), key, partial(prune, chooser, start, part))


def _prune_in_training(chooser: Chooser[Prune], index: int, recover: FloatTraining) -> Taken:
    """Train with more and more channels of zeros, then cut them out."""
    graph = as_graph(chooser.model)
    growth = fading(replace(chooser, model=graph))
    place = Place(f"{chooser.where}.recover", f"{index}-recover")
    model, trained = train_step(chooser.bench, place, recover, graph, growth)
    names = (f"{index}-prune", "cut out what has faded")
    model, cut = _step(replace(chooser, model=model), names, step_key("faded", model.key), partial(faded, chooser))
    return model, (trained, cut)


def _sparsify(bench: Bench, index: int, stage: Sparsify, model: FloatModel) -> Taken:
    chooser = Chooser(bench, f"stages[{index}]", stage, model)
    name = f"{index}-sparsify"
    if stage.recover is None:
        key = step_key("sparsify", model.key, stage.model_dump(), seen_by(bench), made_by(chooser))
        title = f"sparsify ({stage.pattern}, {100 * stage.share:g} %)"
        sparse, folder = _step(chooser, (name, title), key, partial(sparsify, chooser))
        return sparse, (folder,)
    graph = as_graph(model)
    growth = growing(replace(chooser, model=graph))
    sparse, folder = train_step(bench, Place(f"{chooser.where}.recover", name), stage.recover, graph, growth)
    return sparse, (folder,)


def _goal(stage: Prune) -> str:
    if stage.ratio is not None:
        return f"{100 * stage.ratio:g} % of channels"
    return f"{stage.speedup:g} times as fast" if stage.speedup is not None else f"{stage.deadline_ms:g} ms"


def _step(chooser: Chooser[Any], names: tuple[str, str], key: str, make: Make) -> tuple[FloatModel, Path]:
    """Take a step that makes another network of one; `names`: its own, and what it is called while it runs."""
    bench, model = chooser.bench, chooser.model

    def compute(folder: Path, track: Track) -> None:
        done = make(replace(model.artifact, model=model.whole(model.artifact.model)), track)
        save_artifact(done, folder)
        write_atomically(folder / SKIPPED, json.dumps(images_of(bench).skipped))

    name, title = names
    folder = bench.step(name, title, key, compute)
    return smaller(model, load_artifact(folder), key), folder
