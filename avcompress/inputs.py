"""The files and folders that a recipe names: resolved, and found to be there before the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from avcompress.recipe import (
    CocoSource,
    DataSource,
    Detection,
    ImageSource,
    MaskSource,
    Ptq,
    Recipe,
    SceneSource,
    Stage,
    Task,
)
from avcompress.recipe_distill import Distill
from avcompress.recipe_network import Network, OnnxModel, SavedModel, TorchModel
from avcompress.recipe_prune import Importance, Prune, ScoreFile, ScoreFunction, Sparsify
from avcompress.recipe_qat import Qat
from avcompress.recipe_training import LabelLoss
from avcompress.spec import RecipeError

_KEYS = ("images", "labels", "tags")


def find_inputs(recipe: Recipe, recipe_folder: Path, data_root: Path) -> dict[str, Path]:
    """Every path of the recipe by its key, resolved; raises RecipeError for one that is not there."""
    require_root(data_root)
    return _required(recipe, dict(_inputs(recipe, recipe_folder, data_root)))


def find_validation(recipe: Recipe, data_root: Path) -> dict[str, Path]:
    """The paths of the validation images and labels by their keys; raises RecipeError for one that is not there."""
    require_root(data_root)
    return _required(recipe, dict(_data_inputs(recipe, data_root, ("validation",))))


def require_root(data_root: Path) -> None:
    """Raise RecipeError unless the folder that paths start from is one."""
    if not data_root.is_dir():
        got = "a file" if data_root.exists() else "nothing"
        raise RecipeError(f"--data-root: expected a folder, got {got} at {data_root}; give the folder of the data")


def check_labelled(label: str, source: DataSource, task: Task) -> None:
    """Raise RecipeError unless a source has the kind of labels that the task needs."""
    wanted = "boxes" if isinstance(task, Detection) else "masks"
    if _labels(source) != wanted:
        got = f"{source.format!r} with {_labels(source) or 'no labels'}"
        raise RecipeError(f"{label}: expected a format with {wanted} for {task.kind}, got {got}; give labelled images")


def _required(recipe: Recipe, inputs: dict[str, Path]) -> dict[str, Path]:
    for label, path in inputs.items():
        _require_input(label, path, _is_folder(label, recipe))
    return inputs


def _resolve(label: str, folder: Path, written: str) -> Path:
    if not written or "\0" in written:
        raise RecipeError(f"{label}: expected a path, got {written!r}; mend it")
    return (folder / written).resolve()


def _inputs(recipe: Recipe, recipe_folder: Path, data_root: Path) -> Iterator[tuple[str, Path]]:
    yield from _network_inputs("model", recipe.model, recipe_folder, data_root)
    yield from _data_inputs(recipe, data_root, ("train", "calibration", "validation"))
    for index, stage in enumerate(recipe.stages):
        where = f"stages[{index}]"
        yield from _stage_inputs(where, stage, recipe_folder, data_root)
        if isinstance(stage, Prune | Sparsify) and stage.recover is not None:
            yield from _stage_inputs(f"{where}.recover", stage.recover, recipe_folder, data_root)


def _stage_inputs(where: str, stage: Stage, recipe_folder: Path, data_root: Path) -> Iterator[tuple[str, Path]]:
    if isinstance(stage, Ptq) and stage.statistics is not None:
        yield f"{where}.statistics", _resolve(f"{where}.statistics", data_root, stage.statistics)
    if isinstance(stage, LabelLoss) and stage.import_from is not None:
        yield f"{where}.import_from", _resolve(f"{where}.import_from", recipe_folder, stage.import_from)
    if isinstance(stage, Distill | Qat) and not isinstance(stage.teacher, str):
        yield from _network_inputs(f"{where}.teacher", stage.teacher, recipe_folder, data_root)
    if isinstance(stage, Prune):
        yield from _importance_inputs(f"{where}.importance", stage.importance, recipe_folder, data_root)


def _importance_inputs(
    where: str, importance: Importance, recipe_folder: Path, data_root: Path
) -> Iterator[tuple[str, Path]]:
    match importance:
        case ScoreFile(file=file):
            yield f"{where}.file", _resolve(f"{where}.file", data_root, file)
        case ScoreFunction(import_from=str() as folder):
            yield f"{where}.import_from", _resolve(f"{where}.import_from", recipe_folder, folder)


def _network_inputs(where: str, network: Network, recipe_folder: Path, data_root: Path) -> Iterator[tuple[str, Path]]:
    match network:
        case OnnxModel(onnx=file):
            yield f"{where}.onnx", _resolve(f"{where}.onnx", data_root, file)
        case SavedModel(structure=saved):
            yield f"{where}.structure", _resolve(f"{where}.structure", data_root, saved)
        case TorchModel(import_from=folder, weights=weights):
            if folder is not None:
                yield f"{where}.import_from", _resolve(f"{where}.import_from", recipe_folder, folder)
            if weights is not None:
                yield f"{where}.weights", _resolve(f"{where}.weights", data_root, weights)


def _data_inputs(recipe: Recipe, data_root: Path, parts: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for part in parts:
        source = getattr(recipe.data, part)
        for key in _KEYS:
            written = getattr(source, key, None)
            if written is not None and not isinstance(source, SceneSource):
                label = f"data.{part}.{key}"
                yield label, _resolve(label, data_root, written)


def _is_folder(label: str, recipe: Recipe) -> bool:
    """Whether an input is a folder: only networks, weights, statistics, tags, scores and COCO labels are files."""
    if label.endswith(".labels"):
        return not isinstance(getattr(recipe.data, label.split(".")[1]), CocoSource)
    return not label.endswith((".onnx", ".weights", ".statistics", ".tags", ".file"))


def _require_input(label: str, path: Path, folder: bool) -> None:
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
        case ImageSource():
            return ""
        case MaskSource():
            return "masks"
        case SceneSource():
            return source.labels
        case _:
            return "boxes"
