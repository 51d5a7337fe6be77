"""From a job to a bench: everything cheap that can be wrong is found here, before the work begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from avcompress.files import write_atomically
from avcompress.recipe import Detection, Engine, OnnxModel, Recipe, SceneSource, Task, TorchModel, Train
from avcompress.spec import MissingError, RecipeError, Track
from avcompress.state import State
from avcompress.watch import Watch
from calibration.source import Source, open_source
from engines.build import require
from validation.detection import detection_metric_names
from validation.gates import check_contract
from validation.segmentation import segmentation_metric_names

OURS = ("engines", "model.onnx", "recipe.yaml", "report.html", "report.json", "state")


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

    def step(self, name: str, title: str, key: str, compute: Callable[[Path, Track], None]) -> Path:
        """Take one step of the run, or keep its results from the last run; returns the folder that holds them."""
        reused = self.state.seconds(name, key) is not None
        with self.watch.step(title, reused) as track:
            folder = self.state.step(name, key, lambda folder: compute(folder, track))
        self.passed.append(Step(name, title, self.state.seconds(name, key) or 0.0))
        return folder


def prepare(job: Job, watch: Watch) -> Bench:
    """Check all that can be checked without work, and make the output folder ready.

    Raises MissingError for an engine that this machine lacks, RecipeError and DataError for what the recipe names.
    """
    recipe = job.recipe
    inputs = dict(_inputs(job))
    for label, path in inputs.items():
        _require_input(label, path)
    engines, notes = _engines(recipe)
    validation = open_source(recipe.data.validation, job.data_root, recipe.classes)
    classes = recipe.classes or validation.classes
    calibration = open_source(recipe.data.calibration, job.data_root, classes)
    train = open_source(recipe.data.train, job.data_root, classes) if recipe.data.train else None
    _check(recipe, classes)
    for role, source in (("calibration", calibration), ("validation", validation), ("train", train)):
        _look_at_first(role, source, recipe.task)
    _make_ready(job)
    return Bench(job, watch, State(job.out / "state"), engines, classes, calibration, validation, train, inputs, notes)


def outside(bench: Bench) -> Iterator[str]:
    """One line for each input that the recipe's `..` or absolute path puts outside the folder it starts from."""
    for label, path in bench.inputs.items():
        start = bench.job.recipe_path.parent if label.endswith("import_from") else bench.job.data_root
        if not path.is_relative_to(start):
            yield f"{label} leaves {start}: it is {path}"


def _inputs(job: Job) -> Iterator[tuple[str, Path]]:
    """Every path of the recipe by its key, resolved."""
    match job.recipe.model:
        case OnnxModel(onnx=file):
            yield "model.onnx", (job.data_root / file).resolve()
        case TorchModel(import_from=folder, weights=weights):
            if folder is not None:
                yield "model.import_from", (job.recipe_path.parent / folder).resolve()
            if weights is not None:
                yield "model.weights", (job.data_root / weights).resolve()
    for part in ("train", "calibration", "validation"):
        source = getattr(job.recipe.data, part)
        for key in ("images", "labels"):
            written = getattr(source, key, None)
            if written is not None and not isinstance(source, SceneSource):
                yield f"data.{part}.{key}", (job.data_root / written).resolve()


def _require_input(label: str, path: Path) -> None:
    folders = label.endswith((".images", ".import_from"))
    # Labels are one file or a folder of them: their format knows which.
    anything = label.endswith(".labels")
    wanted = "a file or folder" if anything else "a folder" if folders else "a file"
    if not path.exists():
        raise RecipeError(f"{label}: expected {wanted}, got nothing at {path}; mend it or give --data-root")
    if not anything and path.is_dir() != folders:
        got = "a folder" if path.is_dir() else "a file"
        raise RecipeError(f"{label}: expected {wanted}, got {got} at {path}; mend the path")


def _look_at_first(role: str, source: Source | None, task: Task) -> None:
    """Read the first sample of a source: a mask or an image of the wrong kind is found before the work."""
    if source is None:
        return
    sample = next(iter(source))
    if role == "calibration":  # needs images only
        return
    found, kind = (sample.boxes, "boxes") if isinstance(task, Detection) else (sample.mask, "masks")
    if found is None:
        raise RecipeError(
            f"data.{role}: expected images with {kind} for the task {task.kind}, got none; choose a format with {kind}"
        )


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


def _check(recipe: Recipe, classes: tuple[str, ...]) -> None:
    names = detection_metric_names if isinstance(recipe.task, Detection) else segmentation_metric_names
    check_contract(recipe.contract, names(classes), recipe.measure)
    training = [i for i, stage in enumerate(recipe.stages) if isinstance(stage, Train)]
    if training and recipe.data.train is None:
        raise RecipeError(f"stages[{training[0]}]: expected data.train to train on, got nothing; add it")
    if training and isinstance(recipe.model, OnnxModel):
        raise RecipeError(
            f"stages[{training[0]}]: expected a torch module to train, got an ONNX file; use model.factory"
        )
    if training and training[-1] != len(training) - 1:
        raise RecipeError(
            f"stages[{training[-1]}]: expected `train` before every other stage, got it after; move it up"
        )


def _make_ready(job: Job) -> None:
    """Keep or clear what an earlier run left; never touch what is not ours."""
    if job.out.is_dir():
        foreign = sorted(path.name for path in job.out.iterdir() if not _is_ours(path))
        if foreign:
            raise RecipeError(
                f"{job.out}: expected a new folder or an earlier run's, got {foreign[0]!r}; give another --out"
            )
        for path in job.out.iterdir():
            if not job.resume or path.name.endswith(".tmp"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in [*job.out.glob("state/.*.tmp"), *job.out.glob("engines/.*.tmp")]:
        shutil.rmtree(path, ignore_errors=True)  # what a killed run left
    write_atomically(job.out / "recipe.yaml", job.recipe_path.read_text(encoding="utf-8"))


def _is_ours(path: Path) -> bool:
    return path.name in OURS or (path.name.startswith(".") and path.name.endswith(".tmp"))
