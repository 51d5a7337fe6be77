"""From a job to a bench: everything cheap that can be wrong is found here, before the work begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import assert_never

from avcompress import ranks
from avcompress.inputs import check_labelled, find_inputs
from avcompress.recipe import (
    AdaRound,
    Cast,
    CorrectBias,
    Dynamic,
    Engine,
    Equalize,
    GeneratedSource,
    Ptq,
    Recipe,
    Reconstruct,
    Repairing,
    Shrinking,
    Smooth,
    Sources,
    Stage,
    TrtEngine,
    WeightOnly,
)
from avcompress.recipe_distill import Distill
from avcompress.recipe_lowrank import Factorize
from avcompress.recipe_prune import Prune, Sparsify
from avcompress.recipe_qat import Qat
from avcompress.recipe_rewrite import Rewrite
from avcompress.recipe_training import Train
from avcompress.running.choice_checks import check_choices, check_cluster, check_floors
from avcompress.running.targeting import engine_of
from avcompress.running.training_checks import check_training
from avcompress.spec import MissingError, RecipeError, Track
from avcompress.state import State
from avcompress.step_cache import StepCache
from avcompress.steps import Step, Steps
from avcompress.trial import Trial, metric_names, trial_of
from avcompress.watch import Watch
from calibration.generated import open_generated
from calibration.preprocess import check_preprocess
from calibration.source import Source, open_source
from engines.build import require
from engines.capabilities import check_formats
from engines.tensorrt.for_target import wanted_by
from validation.contract_check import check_contract
from validation.corruptions import parse_corruptions


@dataclass(frozen=True)
class Job:
    """What to run, on which data, and where the results go; the paths are absolute.

    Attributes:
        resume: keep the finished steps of an earlier run in `out`.
        cache: a folder of finished steps that this run shares with others.
        ray: the address of a Ray cluster, as `connected` takes it, for what a choice of precisions measures.
    """

    recipe: Recipe
    recipe_path: Path
    data_root: Path
    out: Path
    resume: bool = False
    cache: Path | None = None
    ray: str | None = None


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
    selection: Source
    train: Source | None
    inputs: Mapping[str, Path]
    notes: list[str] = field(default_factory=list)
    passed: list[Step] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """The job's recipe."""
        return self.job.recipe

    @property
    def steps(self) -> Steps:
        """What takes the job's steps."""
        return Steps(self.watch, self.state, self.passed)

    @property
    def trial(self) -> Trial:
        """What every network is measured on."""
        return trial_of(self.recipe, self.classes, self.validation)

    def step(
        self,
        name: str,
        title: str,
        key: str,
        compute: Callable[[Path, Track], None],
        still: bool = False,
        together: bool = False,
    ) -> Path:
        """Take one step of the run; see Steps.take."""
        return self.steps.take(name, title, key, compute, still, together)


def prepare(job: Job, watch: Watch) -> Bench:
    """Check all that can be checked without work; nothing is written.

    Raises MissingError for an engine that this machine lacks, RecipeError and DataError for what the recipe names.
    """
    recipe = job.recipe
    inputs = find_inputs(recipe, job.recipe_path.parent, job.data_root)
    check_recipe(recipe)
    check_cluster(recipe, job.ray)
    engines, notes = usable_engines(recipe)
    validation = open_source(recipe.data.validation, job.data_root, recipe.classes)
    classes = recipe.classes or validation.classes
    next(iter(validation))  # a mask or an image of the wrong kind is found before the work
    calibration = open_part(job, "calibration", recipe.data.calibration, classes)
    train = open_part(job, "train", recipe.data.train, classes) if recipe.data.train else None
    _check_contract(recipe, classes)
    _check_clocks(recipe, engines)
    check_floors(recipe, classes)
    # Of several processes, each would have to find the same step in the cache at the same moment.
    selection = _selection(job, classes) or validation
    cache = StepCache(job.cache) if job.cache is not None and ranks.count() == 1 else None
    state = State(job.out / "state", cache)
    return Bench(job, watch, state, engines, classes, calibration, validation, selection, train, inputs, notes)


def _selection(job: Job, classes: tuple[str, ...]) -> Source | None:
    """The labelled images that choices are made by, where the recipe has some of their own."""
    settings = job.recipe.data.selection
    return None if settings is None else open_part(job, "selection", settings, classes)


def generated_step(part: str) -> str:
    """The step that makes the images of a part of the data, train or calibration."""
    return f"generate-{part}"


def open_part(job: Job, part: str, settings: Sources, classes: tuple[str, ...]) -> Source:
    """Open what a network learns from or is calibrated on; what the job has to make itself need not be there yet."""
    if isinstance(settings, GeneratedSource):
        return open_generated(job.out / "state" / generated_step(part), settings.count, classes)
    source = open_source(settings, job.data_root, classes)
    next(iter(source))
    return source


def outside(bench: Bench) -> Iterator[str]:
    """One line for each input that the recipe's `..` or absolute path puts outside the folder it starts from."""
    for label, path in bench.inputs.items():
        start = bench.job.recipe_path.parent if label.endswith("import_from") else bench.job.data_root
        if not path.is_relative_to(start):
            yield f"{label} leaves {start}: it is {path}"


def usable_engines(recipe: Recipe) -> tuple[tuple[Engine, ...], list[str]]:
    """The engines that this machine has, and a note on each that is skipped; raises MissingError for a required one."""
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


def _check_clocks(recipe: Recipe, engines: Sequence[Engine]) -> None:
    """Every stage that measures latency has an engine to measure it on."""
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, Factorize | Rewrite) or (isinstance(stage, Prune) and stage.ratio is None):
            engine_of(engines, stage.backend, f"stages[{index}]")
        if isinstance(stage, Ptq) and stage.mixed is not None:
            engine_of(engines, stage.mixed.backend, f"stages[{index}].mixed")


def _check_contract(recipe: Recipe, classes: tuple[str, ...]) -> None:
    check_contract(recipe.contract, metric_names(recipe.task, classes), recipe.measure)


def check_recipe(recipe: Recipe) -> None:
    """Find what no key alone shows to be wrong; raises RecipeError."""
    _check_stages(recipe)
    check_choices(recipe)
    _check_targets(recipe)
    check_formats(recipe)
    check_preprocess(recipe.preprocess)
    parse_corruptions(recipe.validation.corruptions)
    check_labelled("data.validation", recipe.data.validation, recipe.task)
    if recipe.data.selection is not None:
        check_labelled("data.selection", recipe.data.selection, recipe.task)
    backends = [engine.backend for engine in recipe.target.engines]
    terms = [(f"contract.latency[{i}]", term.engine) for i, term in enumerate(recipe.contract.latency)]
    terms += [(f"contract.speedup[{i}]", term.engine) for i, term in enumerate(recipe.contract.speedup)]
    for key, named in terms:
        if named not in backends:
            raise RecipeError(
                f"{key}.engine: expected one of target.engines ({', '.join(backends)}), got "
                f"{named!r}; add it there, or name another"
            )


def _check_targets(recipe: Recipe) -> None:
    for index, engine in enumerate(recipe.target.engines):
        if isinstance(engine, TrtEngine) and engine.target is not None:
            try:
                wanted_by(engine)
            except RecipeError as error:
                raise RecipeError(f"target.engines[{index}].target: {error}") from error


def _check_stages(recipe: Recipe) -> None:
    """Each stage at its place: what trains the float network, prepares it, quantizes it, repairs that, casts."""
    ranks = [_rank(stage) for stage in recipe.stages]
    for index in range(1, len(ranks)):
        stage, before = recipe.stages[index], recipe.stages[index - 1]
        if ranks[index] < ranks[index - 1] or (ranks[index] == ranks[index - 1] and ranks[index] in _ONCE):
            raise RecipeError(f"stages[{index}]: {_misplaced(stage, before)}; {_ORDER}")
    _check_sparse(recipe)
    repairing = [i for i, stage in enumerate(recipe.stages) if isinstance(stage, Repairing | Qat)]
    if repairing and not any(isinstance(stage, Ptq) for stage in recipe.stages):
        kind = recipe.stages[repairing[0]].kind
        raise RecipeError(f"stages[{repairing[0]}]: expected `ptq` before `{kind}`, got none; add it, or drop `{kind}`")
    check_training(recipe)


def _check_sparse(recipe: Recipe) -> None:
    """What changes the shapes of weights would break their patterns of zeros."""
    sparse = next((i for i, stage in enumerate(recipe.stages) if isinstance(stage, Sparsify)), len(recipe.stages))
    later = [(i, stage) for i, stage in enumerate(recipe.stages) if i > sparse and not isinstance(stage, Sparsify)]
    for index, stage in later:
        if isinstance(stage, Shrinking):
            raise RecipeError(
                f"stages[{index}]: expected `{stage.kind}` before `sparsify`, got it after, where it would change the "
                "shapes of sparse weights; exchange the two"
            )


def _misplaced(stage: Stage, before: Stage) -> str:
    if stage.kind == before.kind:
        return f"expected `{stage.kind}` once, got it twice"
    if _rank(stage) == _rank(before):
        return f"expected `{before.kind}` or `{stage.kind}`, got both"
    return f"expected `{stage.kind}` before `{before.kind}`, got it after"


_ONCE = frozenset({2, 5})
_ORDER = (
    "order them: train, distill, rewrite, prune, factorize and sparsify as you like, equalize, smooth, one of ptq, "
    "dynamic or weight_only, what repairs, qat, cast"
)


def _rank(stage: Stage) -> int:
    match stage:
        case Train() | Distill() | Prune() | Factorize() | Rewrite() | Sparsify():
            return 0
        case Equalize() | Smooth():
            return 1
        case Ptq() | Dynamic() | WeightOnly():
            return 2
        case CorrectBias() | AdaRound() | Reconstruct():
            return 3
        case Qat():
            return 4
        case Cast():
            return 5
        case _:
            assert_never(stage)
