"""The files and folders that a recipe names: resolved, and found to be there before the work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from avcompress.recipe import (
    CocoSource,
    DataSource,
    Detection,
    GeneratedSource,
    ImageSource,
    MaskSource,
    Ptq,
    Recipe,
    SceneSource,
    Sources,
    Stage,
    Task,
)
from avcompress.recipe_distill import Distill
from avcompress.recipe_drive import RosbagSource
from avcompress.recipe_network import Network, OnnxModel, SavedModel, TorchModel
from avcompress.recipe_prune import Importance, Prune, ScoreFile, ScoreFunction, Sparsify
from avcompress.recipe_qat import Qat
from avcompress.recipe_training import LabelLoss
from avcompress.spec import RecipeError

_KEYS = ("images", "labels", "tags")


class _Input(NamedTuple):
    """What a recipe names: its key, its place, and whether it is a folder."""

    label: str
    path: Path
    folder: bool


def find_inputs(recipe: Recipe, recipe_folder: Path, data_root: Path) -> dict[str, Path]:
    """Every path of the recipe by its key, resolved; raises RecipeError for one that is not there."""
    require_root(data_root)
    return _required(_inputs(recipe, recipe_folder, data_root))


def find_validation(recipe: Recipe, data_root: Path) -> dict[str, Path]:
    """The paths of the validation images and labels by their keys; raises RecipeError for one that is not there."""
    require_root(data_root)
    return find_source("data.validation", recipe.data.validation, data_root)


def find_source(label: str, source: Sources | None, data_root: Path) -> dict[str, Path]:
    """The paths of a set of images and labels, `label` its key; raises RecipeError for one that is not there."""
    return _required(_source_inputs(label, source, data_root))


def find_stage(label: str, stage: Stage, folder: Path, data_root: Path) -> dict[str, Path]:
    """The paths that a stage names, `label` its key and `folder` where `import_from` starts; as find_source."""
    return _required(_stage_inputs(label, stage, folder, data_root))


def require_root(data_root: Path) -> None:
    """Raise RecipeError unless the folder that paths start from is one."""
    if not data_root.is_dir():
        got = "a file" if data_root.exists() else "nothing"
        raise RecipeError(f"--data-root: expected a folder, got {got} at {data_root}; give the folder of the data")


def check_labelled(label: str, sources: Sources, task: Task, remedy: str = "give labelled images") -> None:
    """Raise RecipeError, which ends with the remedy, unless each source has the kind of labels that the task needs."""
    for where, source in _by_label(label, sources).items():
        if not is_labelled(source, task):
            got = f"{source.format!r} with {_labels(source) or 'no labels'}"
            raise RecipeError(f"{where}: expected a format with {_wanted(task)} for {task.kind}, got {got}; {remedy}")


def _by_label(label: str, sources: Sources | None) -> Mapping[str, DataSource]:
    """Each source by the key under which the recipe has it: data.train, or data.train[0] and so on."""
    if isinstance(sources, tuple):
        return {f"{label}[{index}]": source for index, source in enumerate(sources)}
    return {} if sources is None else {label: sources}


def is_labelled(source: DataSource, task: Task) -> bool:
    """Whether a source has the kind of labels that the task needs."""
    return _labels(source) == _wanted(task)


def _wanted(task: Task) -> str:
    return "boxes" if isinstance(task, Detection) else "masks"


def _required(inputs: Iterable[_Input]) -> dict[str, Path]:
    found = {}
    for each in inputs:
        _require_input(each)
        found[each.label] = each.path
    return found


def _resolve(label: str, folder: Path, written: str) -> Path:
    if not written or "\0" in written:
        raise RecipeError(f"{label}: expected a path, got {written!r}; mend it")
    return (folder / written).resolve()


def _file(label: str, folder: Path, written: str) -> _Input:
    return _Input(label, _resolve(label, folder, written), folder=False)


def _folder(label: str, folder: Path, written: str) -> _Input:
    return _Input(label, _resolve(label, folder, written), folder=True)


def _inputs(recipe: Recipe, recipe_folder: Path, data_root: Path) -> Iterator[_Input]:
    yield from _network_inputs("model", recipe.model, recipe_folder, data_root)
    for part in ("train", "calibration", "selection", "validation"):
        yield from _source_inputs(f"data.{part}", getattr(recipe.data, part), data_root)
    for index, stage in enumerate(recipe.stages):
        where = f"stages[{index}]"
        yield from _stage_inputs(where, stage, recipe_folder, data_root)
        if isinstance(stage, Prune | Sparsify) and stage.recover is not None:
            yield from _stage_inputs(f"{where}.recover", stage.recover, recipe_folder, data_root)


def _stage_inputs(where: str, stage: Stage, recipe_folder: Path, data_root: Path) -> Iterator[_Input]:
    if isinstance(stage, Ptq) and stage.statistics is not None:
        yield _file(f"{where}.statistics", data_root, stage.statistics)
    if isinstance(stage, Ptq) and stage.mixed is not None and stage.mixed.times_file is not None:
        yield _file(f"{where}.mixed.times_file", data_root, stage.mixed.times_file)
    if isinstance(stage, LabelLoss) and stage.import_from is not None:
        yield _folder(f"{where}.import_from", recipe_folder, stage.import_from)
    if isinstance(stage, Distill | Qat) and not isinstance(stage.teacher, str):
        yield from _network_inputs(f"{where}.teacher", stage.teacher, recipe_folder, data_root)
    if isinstance(stage, Prune):
        yield from _importance_inputs(f"{where}.importance", stage.importance, recipe_folder, data_root)


def _importance_inputs(where: str, importance: Importance, recipe_folder: Path, data_root: Path) -> Iterator[_Input]:
    match importance:
        case ScoreFile(file=file):
            yield _file(f"{where}.file", data_root, file)
        case ScoreFunction(import_from=str() as folder):
            yield _folder(f"{where}.import_from", recipe_folder, folder)


def _network_inputs(where: str, network: Network, recipe_folder: Path, data_root: Path) -> Iterator[_Input]:
    match network:
        case OnnxModel(onnx=file):
            yield _file(f"{where}.onnx", data_root, file)
        case SavedModel(structure=saved):
            yield _folder(f"{where}.structure", data_root, saved)
        case TorchModel(import_from=folder, weights=weights):
            if folder is not None:
                yield _folder(f"{where}.import_from", recipe_folder, folder)
            if weights is not None:
                yield _file(f"{where}.weights", data_root, weights)


def _source_inputs(label: str, sources: Sources | None, data_root: Path) -> Iterator[_Input]:
    """Of images: all but tags, and the labels of COCO, are folders; a bag may be either."""
    for where, source in _by_label(label, sources).items():
        if isinstance(source, RosbagSource):
            bag = _resolve(f"{where}.bag", data_root, source.bag)
            yield _Input(f"{where}.bag", bag, folder=not bag.is_file())
            continue
        for key in _KEYS if not isinstance(source, SceneSource) else ():
            written = getattr(source, key, None)
            if written is not None:
                file = key == "tags" or (key == "labels" and isinstance(source, CocoSource))
                yield (_file if file else _folder)(f"{where}.{key}", data_root, written)


def _require_input(given: _Input) -> None:
    label, path, folder = given
    wanted = "a folder" if folder else "a file"
    if not os.path.exists(path):
        raise RecipeError(f"{label}: expected {wanted}, got nothing at {path}; mend the path, or give --data-root")
    if path.is_dir() != folder:
        got = "a folder" if path.is_dir() else "a file"
        raise RecipeError(f"{label}: expected {wanted}, got {got} at {path}; mend the path")
    if not os.access(path, os.R_OK | (os.X_OK if folder else 0)):
        raise RecipeError(f"{label}: expected {wanted} that you may read, got {path} without permission; chmod it")


def _labels(source: DataSource) -> str:
    """What a source's images are labelled with: boxes, masks or nothing."""
    match source:
        case ImageSource() | RosbagSource() | GeneratedSource():
            return ""
        case MaskSource():
            return "masks"
        case SceneSource():
            return source.labels
        case _:
            return "boxes"
