"""From a job to a bench: everything cheap that can be wrong is found here, before the work begins."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from typing_extensions import assert_never

from avcompress import ranks
from avcompress.files import private_folder
from avcompress.recipe import (
    AdaRound,
    Cast,
    CocoSource,
    CorrectBias,
    DataSource,
    Detection,
    Dynamic,
    Engine,
    Equalize,
    ImageSource,
    MaskSource,
    Ptq,
    Recipe,
    Reconstruct,
    Repairing,
    SceneSource,
    Smooth,
    Stage,
    TrtEngine,
    WeightOnly,
)
from avcompress.recipe_network import OnnxModel, TorchModel
from avcompress.recipe_training import Train
from avcompress.spec import MissingError, RecipeError, Track
from avcompress.state import State
from avcompress.watch import Watch
from calibration.preprocess import check_preprocess
from calibration.source import Source, open_source
from engines.build import require
from engines.capabilities import check_formats
from engines.tensorrt.for_target import wanted_by
from validation.detection import detection_metric_names
from validation.gates import check_contract
from validation.segmentation import segmentation_metric_names


@dataclass(frozen=True)
class Job:
    """What to run, on which data, and where the results go; the paths are absolute."""

    recipe: Recipe
    recipe_path: Path
    data_root: Path
    out: Path
    resume: bool = False


class Step(NamedTuple):
    """A step that this run has passed."""

    name: str
    title: str
    seconds: float


@dataclass(frozen=True)
class Bench:
    """A job whose inputs were found good, with what its steps share."""

    job: Job
    watch: Watch
    state: State
    engines: tuple[Engine, ...]
    classes: tuple[str, ...]
    calibration: Source
    validation: Source
    train: Source | None
    inputs: Mapping[str, Path]
    notes: list[str] = field(default_factory=list)
    passed: list[Step] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """The job's recipe."""
        return self.job.recipe

    def step(
        self,
        name: str,
        title: str,
        key: str,
        compute: Callable[[Path, Track], None],
        still: bool = False,
        together: bool = False,
    ) -> Path:
        """Take one step of the run, or keep its results from the last run; returns the folder that holds them.

        Of several processes the first one takes it, and the others wait. `still`: something is timed in it;
        `together`: all processes compute, and the first one's results are kept.
        """
        reused = bool(ranks.agreed(self.state.seconds(name, key) is not None))
        with self.watch.step(title, reused, still) as track:
            folder = self.state.folder / name
            if ranks.leads():
                self.state.step(name, key, lambda folder: compute(folder, track))
            elif together and not reused:
                with private_folder() as scratch:
                    compute(scratch, track)
            ranks.wait()
        self.passed.append(Step(name, title, self.state.seconds(name, key) or 0.0))
        return folder


def prepare(job: Job, watch: Watch) -> Bench:
    """Check all that can be checked without work; nothing is written.

    Raises MissingError for an engine that this machine lacks, RecipeError and DataError for what the recipe names.
    """
    recipe = job.recipe
    if not job.data_root.is_dir():
        got = "a file" if job.data_root.exists() else "nothing"
        raise RecipeError(f"--data-root: expected a folder, got {got} at {job.data_root}; give the folder of the data")
    inputs = dict(_inputs(job))
    for label, path in inputs.items():
        _require_input(label, path, _is_folder(label, recipe))
    _check_recipe(recipe)
    engines, notes = _engines(recipe)
    validation = open_source(recipe.data.validation, job.data_root, recipe.classes)
    classes = recipe.classes or validation.classes
    calibration = open_source(recipe.data.calibration, job.data_root, classes)
    train = open_source(recipe.data.train, job.data_root, classes) if recipe.data.train else None
    _check_contract(recipe, classes)
    for source in filter(None, (calibration, validation, train)):
        next(iter(source))  # a mask or an image of the wrong kind is found before the work
    return Bench(job, watch, State(job.out / "state"), engines, classes, calibration, validation, train, inputs, notes)


def outside(bench: Bench) -> Iterator[str]:
    """One line for each input that the recipe's `..` or absolute path puts outside the folder it starts from."""
    for label, path in bench.inputs.items():
        start = bench.job.recipe_path.parent if label.endswith("import_from") else bench.job.data_root
        if not path.is_relative_to(start):
            yield f"{label} leaves {start}: it is {path}"


def _resolve(label: str, folder: Path, written: str) -> Path:
    if not written or "\0" in written:
        raise RecipeError(f"{label}: expected a path, got {written!r}; mend it")
    return (folder / written).resolve()


def _inputs(job: Job) -> Iterator[tuple[str, Path]]:
    """Every path of the recipe by its key, resolved."""
    match job.recipe.model:
        case OnnxModel(onnx=file):
            yield "model.onnx", _resolve("model.onnx", job.data_root, file)
        case TorchModel(import_from=folder, weights=weights):
            if folder is not None:
                yield "model.import_from", _resolve("model.import_from", job.recipe_path.parent, folder)
            if weights is not None:
                yield "model.weights", _resolve("model.weights", job.data_root, weights)
    yield from _data_inputs(job)
    for index, stage in enumerate(job.recipe.stages):
        if isinstance(stage, Ptq) and stage.statistics is not None:
            label = f"stages[{index}].statistics"
            yield label, _resolve(label, job.data_root, stage.statistics)
        if isinstance(stage, Train) and stage.import_from is not None:
            label = f"stages[{index}].import_from"
            yield label, _resolve(label, job.recipe_path.parent, stage.import_from)


def _data_inputs(job: Job) -> Iterator[tuple[str, Path]]:
    for part in ("train", "calibration", "validation"):
        source = getattr(job.recipe.data, part)
        for key in ("images", "labels", "tags"):
            written = getattr(source, key, None)
            if written is not None and not isinstance(source, SceneSource):
                label = f"data.{part}.{key}"
                yield label, _resolve(label, job.data_root, written)


def _engines(recipe: Recipe) -> tuple[tuple[Engine, ...], list[str]]:
    usable: list[Engine] = []
    notes: list[str] = []
    for engine in recipe.target.engines:
        if engine.backend in [other.backend for other in usable]:
            raise RecipeError(f"target.engines: expected each backend once, got {engine.backend!r} twice; remove one")
        try:
            require(engine)
            usable.append(engine)
        except MissingError as error:
            if engine.required:
                raise
            notes.append(f"{engine.backend} skipped (required: false): {error}")
    if not usable:
        raise MissingError("target.engines: expected one that this machine has, got none; add `ort` or `openvino`")
    return tuple(usable), notes


def _is_folder(label: str, recipe: Recipe) -> bool:
    """Whether an input is a folder: only networks, weights, statistics, tags and COCO labels are files."""
    if label.endswith(".labels"):
        return not isinstance(getattr(recipe.data, label.split(".")[1]), CocoSource)
    return label not in ("model.onnx", "model.weights") and not label.endswith((".statistics", ".tags"))


def _require_input(label: str, path: Path, folder: bool) -> None:
    wanted = "a folder" if folder else "a file"
    if not os.path.exists(path):
        raise RecipeError(f"{label}: expected {wanted}, got nothing at {path}; mend the path, or give --data-root")
    if path.is_dir() != folder:
        got = "a folder" if path.is_dir() else "a file"
        raise RecipeError(f"{label}: expected {wanted}, got {got} at {path}; mend the path")
    if not os.access(path, os.R_OK | (os.X_OK if folder else 0)):
        raise RecipeError(f"{label}: expected {wanted} that you may read, got {path} without permission; chmod it")


def _check_contract(recipe: Recipe, classes: tuple[str, ...]) -> None:
    names = detection_metric_names if isinstance(recipe.task, Detection) else segmentation_metric_names
    check_contract(recipe.contract, names(classes), recipe.measure)


def _check_recipe(recipe: Recipe) -> None:
    """Find what no key alone shows to be wrong."""
    _check_stages(recipe)
    _check_targets(recipe)
    check_formats(recipe)
    check_preprocess(recipe.preprocess)
    wanted = "boxes" if isinstance(recipe.task, Detection) else "masks"
    for role, source in (("validation", recipe.data.validation), ("train", recipe.data.train)):
        if source is not None and _labels(source) != wanted and (role == "validation" or _learns_labels(recipe)):
            got = f"{source.format!r} with {_labels(source) or 'no labels'}"
            raise RecipeError(
                f"data.{role}: expected a format with {wanted} for {recipe.task.kind}, got {got}; give labelled images"
            )
    backends = [engine.backend for engine in recipe.target.engines]
    for index, term in enumerate(recipe.contract.latency):
        if term.engine not in backends:
            raise RecipeError(
                f"contract.latency[{index}].engine: expected one of target.engines ({', '.join(backends)}), got "
                f"{term.engine!r}; add it there, or name another"
            )


def _check_targets(recipe: Recipe) -> None:
    for index, engine in enumerate(recipe.target.engines):
        if isinstance(engine, TrtEngine) and engine.target is not None:
            try:
                wanted_by(engine)
            except RecipeError as error:
                raise RecipeError(f"target.engines[{index}].target: {error}") from error


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


def _learns_labels(recipe: Recipe) -> bool:
    """Whether a stage's loss needs the labels of data.train; a user's own may do without."""
    return any(isinstance(stage, Train) and ":" not in (stage.loss or "") for stage in recipe.stages)


def _check_stages(recipe: Recipe) -> None:
    """Each stage at its place: train, then what prepares a float network, quantizes it, repairs it, casts the rest."""
    ranks = [_rank(stage) for stage in recipe.stages]
    for index in range(1, len(ranks)):
        stage, before = recipe.stages[index], recipe.stages[index - 1]
        if ranks[index] < ranks[index - 1] or (ranks[index] == ranks[index - 1] and ranks[index] in _ONCE):
            raise RecipeError(f"stages[{index}]: {_misplaced(stage, before)}; {_ORDER}")
    repairing = [i for i, stage in enumerate(recipe.stages) if isinstance(stage, Repairing)]
    if repairing and not any(isinstance(stage, Ptq) for stage in recipe.stages):
        kind = recipe.stages[repairing[0]].kind
        raise RecipeError(f"stages[{repairing[0]}]: expected `ptq` before `{kind}`, got none; add it, or drop `{kind}`")
    _check_training(recipe)


def _misplaced(stage: Stage, before: Stage) -> str:
    if stage.kind == before.kind:
        return f"expected `{stage.kind}` once, got it twice"
    if _rank(stage) == _rank(before):
        return f"expected `{before.kind}` or `{stage.kind}`, got both"
    return f"expected `{stage.kind}` before `{before.kind}`, got it after"


_ONCE = frozenset({2, 4})
_ORDER = "order them: train, equalize, smooth, one of ptq, dynamic or weight_only, what repairs, cast"


def _rank(stage: Stage) -> int:
    match stage:
        case Train():
            return 0
        case Equalize() | Smooth():
            return 1
        case Ptq() | Dynamic() | WeightOnly():
            return 2
        case CorrectBias() | AdaRound() | Reconstruct():
            return 3
        case Cast():
            return 4
        case _:
            assert_never(stage)


def _check_training(recipe: Recipe) -> None:
    training = [(i, stage) for i, stage in enumerate(recipe.stages) if isinstance(stage, Train)]
    if training and recipe.data.train is None:
        raise RecipeError(f"stages[{training[0][0]}]: expected data.train to train on, got nothing; add it")
    for index, stage in training:
        _check_loss(recipe, f"stages[{index}]", stage)
        if stage.log is not None and importlib.util.find_spec(stage.log) is None:
            raise MissingError(
                f'stages[{index}].log: expected {stage.log}, got none installed; pip install "avcompress[{stage.log}]"'
            )


_LOSSES = {"yolox": frozenset[str](), "ltrb": frozenset[str](), "cross_entropy": frozenset({"class_weights"})}


def _check_loss(recipe: Recipe, where: str, stage: Train) -> None:
    if stage.loss is None and isinstance(recipe.model, OnnxModel):
        raise RecipeError(
            f"{where}.loss: expected yolox, ltrb, cross_entropy or module:function for an ONNX file, which brings "
            "none, got nothing; name one"
        )
    task = recipe.task
    decode = task.decode if isinstance(task, Detection) else ""
    usual = isinstance(task, Detection) and task.strides == (8, 16, 32)
    fits = {"yolox": decode == "yolox", "ltrb": decode == "ltrb" and usual, "cross_entropy": not decode}
    if not fits.get(stage.loss or "", True):
        got = f"{task.kind}, decode: {decode}, strides {task.strides}" if isinstance(task, Detection) else task.kind
        raise RecipeError(f"{where}.loss: expected one that fits the task, {got}, got {stage.loss}; name another")
    unknown = sorted(stage.loss_args.keys() - _LOSSES.get(stage.loss or "yolox", stage.loss_args.keys()))
    if unknown:
        raise RecipeError(f"{where}.loss_args: expected arguments of the loss, got {unknown[0]!r}; remove it")
