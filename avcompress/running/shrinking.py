"""The stages that make the float network smaller: steps that turn a module into a graph of fewer or sparser weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from typing_extensions import assert_never

from avcompress.checkpoint import load_artifact, save_artifact
from avcompress.files import write_atomically
from avcompress.recipe import Shrinking
from avcompress.recipe_prune import Prune, Sparsify
from avcompress.running.alignment import alignment_of
from avcompress.running.bench import Bench
from avcompress.running.choosing import Chooser, made_by
from avcompress.running.float_model import FloatModel, smaller
from avcompress.running.pruning import prune
from avcompress.running.sparsifying import growing, sparsify
from avcompress.running.teaching import images_of
from avcompress.running.training import SKIPPED, Place, seen_by, train_step
from avcompress.spec import Artifact, Track
from avcompress.state import step_key

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
            return stage.parts * (1 if stage.recover is None else 2)
        case Sparsify():
            return 1
        case _:
            assert_never(stage)


def _prune(bench: Bench, index: int, stage: Prune, model: FloatModel) -> Taken:
    folders: list[Path] = []
    where, alignment = f"stages[{index}]", stage.alignment or alignment_of(bench.recipe)
    settings = stage.model_copy(update={"alignment": alignment})
    for part in range(1, stage.parts + 1):
        end = f"-{part}" if stage.parts > 1 else ""
        chooser = Chooser(bench, where, settings, model)
        known = (settings.model_dump(exclude={"recover"}), part, seen_by(bench), made_by(chooser, stage))
        model, folder = _step(
            bench,
            (f"{index}-prune{end}", f"prune ({_goal(stage)})"),
            step_key("prune", model.key, *known),
            partial(prune, chooser, settings, part),
            model,
        )
        folders.append(folder)
        if stage.recover is not None:
            model, folder = train_step(bench, Place(f"{where}.recover", f"{index}-recover{end}"), stage.recover, model)
            folders.append(folder)
    return model, tuple(folders)


def _sparsify(bench: Bench, index: int, stage: Sparsify, model: FloatModel) -> Taken:
    where = f"stages[{index}]"
    chooser = Chooser(bench, where, stage, model)
    if stage.recover is None:
        key = step_key("sparsify", model.key, stage.model_dump(), seen_by(bench), made_by(chooser, stage))
        title = f"sparsify ({stage.pattern}, {100 * stage.share:g} %)"
        sparse, folder = _step(bench, (f"{index}-sparsify", title), key, partial(sparsify, chooser, stage), model)
        return sparse, (folder,)
    network = model.whole(model.artifact.model)
    graph = smaller(model, replace(model.artifact, model=network), step_key("graph", model.key))
    growth = growing(chooser, stage, network)
    sparse, folder = train_step(bench, Place(f"{where}.recover", f"{index}-sparsify"), stage.recover, graph, growth)
    return sparse, (folder,)


def _goal(stage: Prune) -> str:
    if stage.ratio is not None:
        return f"{100 * stage.ratio:g} % of channels"
    return f"{stage.speedup:g} times as fast" if stage.speedup is not None else f"{stage.deadline_ms:g} ms"


def _step(bench: Bench, names: tuple[str, str], key: str, make: Make, model: FloatModel) -> tuple[FloatModel, Path]:
    """Take a step that makes another network of one; `names`: its own, and what it is called while it runs."""

    def compute(folder: Path, track: Track) -> None:
        done = make(replace(model.artifact, model=model.whole(model.artifact.model)), track)
        save_artifact(done, folder)
        write_atomically(folder / SKIPPED, json.dumps(images_of(bench).skipped))

    name, title = names
    folder = bench.step(name, title, key, compute)
    return smaller(model, load_artifact(folder), key), folder
