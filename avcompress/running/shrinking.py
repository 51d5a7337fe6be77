"""The stages that make the float network smaller: steps that turn a module into a graph of fewer or sparser weights."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import assert_never

from avcompress.checkpoint import load_decisions, save_decisions
from avcompress.files import sha256_file, write_atomically
from avcompress.recipe import FloatTraining, Shrinking
from avcompress.recipe_lowrank import Factorize
from avcompress.recipe_prune import Prune, Sparsify
from avcompress.recipe_rewrite import Rewrite
from avcompress.running.bench import Bench
from avcompress.running.budgeting import TABLE, take_budget
from avcompress.running.choosing import Chooser, Made, made_by
from avcompress.running.factorizing import factorize
from avcompress.running.float_model import FloatModel, as_graph, smaller
from avcompress.running.pruning import Part, faded, fading, prune
from avcompress.running.rewriting import rewrite
from avcompress.running.sparsifying import growing, sparsify
from avcompress.running.targeting import alignment_of, engine_of
from avcompress.running.teaching import images_of
from avcompress.running.training import SKIPPED, Place, seen_by, train_step
from avcompress.spec import Artifact, ModelError, RecipeError, Track
from avcompress.state import step_key
from validation.machine import processors, runtime_versions
from validation.report import Factorization, Pruning, Rewriting

Taken = tuple[FloatModel, tuple[Path, ...]]
"""The network after a stage, and the folders of its steps."""
Make = Callable[[Artifact, Track], Made]
"""What a step does to the artifact of a whole ONNX network."""
Facts = TypeVar("Facts", Pruning, Factorization, Rewriting)
FACTS: Mapping[type[Any], str] = {
    Pruning: "pruning.json",
    Factorization: "factorization.json",
    Rewriting: "rewriting.json",
}
"""The file that each is kept in."""
FACTORIZED = "-factorize"
"""How the names of steps end that see the calibration images, not those to learn from."""


def shrink(bench: Bench, index: int, stage: Shrinking, model: FloatModel) -> Taken:
    """Take the steps of one stage; `index` is its place in the recipe."""
    with _located(f"stages[{index}]"):
        match stage:
            case Prune():
                return _prune(bench, index, stage, model)
            case Factorize():
                return _factorize(bench, index, stage, model)
            case Sparsify():
                return _sparsify(bench, index, stage, model)
            case Rewrite():
                return _rewrite(bench, index, stage, model)
            case _:
                assert_never(stage)


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """What a method says of its settings, said of the place where the recipe has them."""
    try:
        yield
    except (RecipeError, ModelError) as error:
        text = re.sub(r"^(prune|sparsify|factorize|rewrite)\b", where, str(error))
        text = re.sub(r"^(importance|fit):", rf"{where}.\1:", text)
        for theirs, ours in (("alignment", "align"), ("by_layer", "align"), ("protected", "exclude")):
            text = text.replace(f"{where}.{theirs}:", f"{where}.{ours}:")
        raise type(error)(text) from error


def count_steps(stage: Shrinking) -> int:
    """How many steps a stage takes."""
    match stage:
        case Prune():
            if stage.schedule == "during_training":
                return 2
            return stage.parts * (1 + (stage.ratio is None) + (stage.recover is not None))
        case Sparsify() | Factorize() | Rewrite():
            return 1
        case _:
            assert_never(stage)


def read_facts(folders: Iterable[Path], kind: type[Facts]) -> tuple[Facts, ...]:
    """What the steps among these tell that removed channels, took layers apart, or wrote operators as others."""
    found = (folder / FACTS[kind] for folder in folders)
    return tuple(kind.model_validate_json(path.read_bytes()) for path in found if path.exists())


def _prune(bench: Bench, index: int, stage: Prune, model: FloatModel) -> Taken:
    usual = alignment_of(bench.recipe)
    align = {"*": usual, **stage.align} if isinstance(stage.align, dict) else stage.align or usual
    chooser = Chooser(bench, f"stages[{index}]", stage.model_copy(update={"align": align}), model)
    if stage.schedule == "during_training" and stage.recover is not None:
        return _prune_in_training(chooser, index, stage.recover)
    folders: list[Path] = []
    start, dense_ms = model.whole(model.artifact.model), None
    for number in range(1, stage.parts + 1):
        chooser, budget = replace(chooser, model=model), None
        end = f"-{number}" if stage.parts > 1 else ""
        if stage.ratio is None:
            budget, now_ms = take_budget(chooser, f"{index}-latency{end}", dense_ms, number)
            dense_ms = dense_ms or now_ms
            folders.append(budget.folder)
        model, folder = _prune_once(chooser, f"{index}-prune{end}", Part(number, start, budget))
        folders.append(folder)
        if stage.recover is not None:
            place = Place(f"{chooser.where}.recover", f"{index}-recover{end}")
            model, folder = train_step(bench, place, stage.recover, model)
            folders.append(folder)
    return model, tuple(folders)


def _prune_once(chooser: Chooser[Prune], name: str, part: Part) -> tuple[FloatModel, Path]:
    stage, budget = chooser.stage, part.budget
    known = [stage.model_dump(exclude={"recover"}), part.number, seen_by(chooser.bench), made_by(chooser)]
    known.append(stage.alignments)  # whose order counts
    known += [] if budget is None else [budget.goal_ms, sha256_file(budget.folder / TABLE)]
    key = step_key("prune", chooser.model.key, *known)
    names = (name, f"prune ({_goal(stage)})")
    return _step(chooser.bench, chooser.model, names, key, partial(prune, chooser, part), still=budget is not None)


def _prune_in_training(chooser: Chooser[Prune], index: int, recover: FloatTraining) -> Taken:
    """Train with more and more channels of zeros, then cut them out."""
    graph = as_graph(chooser.model)
    growth = fading(replace(chooser, model=graph))
    place = Place(f"{chooser.where}.recover", f"{index}-recover")
    model, trained = train_step(chooser.bench, place, recover, graph, growth)
    names = (f"{index}-prune", "cut out what has faded")
    cut, folder = _step(chooser.bench, model, names, step_key("faded", model.key), partial(faded, chooser))
    return cut, (trained, folder)


def _factorize(bench: Bench, index: int, stage: Factorize, model: FloatModel) -> Taken:
    engine = engine_of(bench.engines, stage.backend, f"stages[{index}]")
    images = (bench.recipe.preprocess.model_dump(), bench.calibration.fingerprint)
    known = (stage.model_dump(), engine.model_dump(exclude={"required"}), images, runtime_versions(), processors())
    names = (f"{index}{FACTORIZED}", f"factorize ({stage.method})")
    make = partial(factorize, bench, f"stages[{index}]", stage)
    factorized, folder = _step(bench, model, names, step_key("factorize", model.key, *known), make, still=True)
    return factorized, (folder,)


def _rewrite(bench: Bench, index: int, stage: Rewrite, model: FloatModel) -> Taken:
    engine = engine_of(bench.engines, stage.backend, f"stages[{index}]")
    settings = (stage.model_dump(), engine.model_dump(exclude={"required"}))
    known = (*settings, seen_by(bench), runtime_versions(), processors())
    names = (f"{index}-rewrite", f"rewrite ({', '.join(stage.rules)})")
    make = partial(rewrite, bench, f"stages[{index}]", stage, engine)
    rewritten, folder = _step(bench, model, names, step_key("rewrite", model.key, *known), make, still=True)
    return rewritten, (folder,)


def _sparsify(bench: Bench, index: int, stage: Sparsify, model: FloatModel) -> Taken:
    chooser = Chooser(bench, f"stages[{index}]", stage, model)
    name = f"{index}-sparsify"
    if stage.recover is None:
        key = step_key("sparsify", model.key, stage.model_dump(), seen_by(bench), made_by(chooser))
        title = f"sparsify ({stage.pattern}, {100 * stage.share:g} %)"
        sparse, folder = _step(bench, model, (name, title), key, partial(sparsify, chooser))
        return sparse, (folder,)
    graph = as_graph(model)
    growth = growing(replace(chooser, model=graph))
    sparse, folder = train_step(bench, Place(f"{chooser.where}.recover", name), stage.recover, graph, growth)
    return sparse, (folder,)


def _goal(stage: Prune) -> str:
    if stage.ratio is not None:
        return f"{100 * stage.ratio:g} % of channels"
    return f"{stage.speedup:g} times as fast" if stage.speedup is not None else f"{stage.deadline_ms:g} ms"


def _step(
    bench: Bench, model: FloatModel, names: tuple[str, str], key: str, make: Make, still: bool = False
) -> tuple[FloatModel, Path]:
    """Take a step that makes another network of one; `names`: its own, and what it is called while it runs."""
    from avcompress.prune import load_structure, save_structure

    name, title = names

    def compute(folder: Path, track: Track) -> None:
        done = make(replace(model.artifact, model=model.whole(model.artifact.model)), track)
        save_structure(done.artifact.model, folder)
        save_decisions(done.artifact, folder)
        if done.facts is not None:
            told = done.facts.model_copy(update={"step": title})
            write_atomically(folder / FACTS[type(told)], told.model_dump_json(indent=1))
        images = bench.calibration if name.endswith(FACTORIZED) else images_of(bench)
        write_atomically(folder / SKIPPED, json.dumps(images.skipped))

    folder = bench.step(name, title, key, compute, still=still)
    return smaller(model, load_decisions(folder, load_structure(folder)), key), folder
