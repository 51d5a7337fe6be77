"""From an update's job to its bench: everything cheap that can be wrong is found here, before the work begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from avcompress.contract import AccuracyTerm, Contract
from avcompress.inputs import check_labelled, find_source, find_stage, is_labelled, require_root
from avcompress.judging.contenders import Contender, find_contenders
from avcompress.recipe import Sources
from avcompress.recipe_distill import Labels, Loss, needs_labels
from avcompress.recipe_update import Update
from avcompress.running.bench import Bench, Job, open_part, usable_engines
from avcompress.running.early_stop import judged_metric
from avcompress.running.previous import Previous, find_previous
from avcompress.running.teaching import default_losses, images_of, label_loss, learns_labels
from avcompress.running.training_checks import check_qat, require_log
from avcompress.spec import MissingError, RecipeError
from avcompress.state import State
from avcompress.trial import Trial, metric_names
from avcompress.watch import Watch
from calibration.joined import Part, join
from calibration.part import take_part
from calibration.source import Source, open_source
from engines.bundle import Trust
from validation.gate_accuracy import require_name


@dataclass(frozen=True)
class UpdateJob:
    """What to update, on what, and where the results go.

    Attributes:
        previous: the output folder of a run, or of an earlier update.
        settings: of the update.
        path: of their file.
        data_root: where all paths start, those of the run's recipe, too.
        out: folder for the results.
        resume: keep finished steps.
    """

    previous: Path
    settings: Update
    path: Path
    data_root: Path
    out: Path
    resume: bool = False


class Domain(NamedTuple):
    """Images that an update brought: those it learned from, and those that tell what it brought.

    Attributes:
        name: the update's.
        format: of the images that it learned from.
        trial: None where there are no labelled ones.
        terms: what is judged there, beside the version before.
    """

    name: str
    format: str
    train: Source
    trial: Trial | None
    terms: tuple[AccuracyTerm, ...]


@dataclass(frozen=True)
class UpdateBench:
    """An update whose inputs were found good.

    Attributes:
        bench: of the run that is updated: its recipe, its data; what it makes goes into the update's own folder.
        earlier: what earlier updates brought.
        new: what this one brings.
        replayed: old images, to learn from again.
        contenders: the engines of the version before that run here.
        losses: of new images.
    """

    settings: Update
    previous: Previous
    bench: Bench
    earlier: tuple[Domain, ...]
    new: Domain
    replayed: Source
    contenders: tuple[Contender, ...]
    losses: tuple[Loss, ...]

    @property
    def calibration(self) -> tuple[Source, Source]:
        """What ranges are re-estimated on: the old images that they are for so far, and new ones."""
        old = [Part(self.bench.recipe.name, self.bench.calibration)]
        old += [
            Part(each.name, _spread(each.train, update.range_images))
            for each, update in zip(self.earlier, self.previous.updates, strict=True)
        ]
        return join(old), _spread(self.new.train, self.settings.range_images)

    @property
    def replay_losses(self) -> tuple[Loss, ...]:
        """Of old images."""
        return self.settings.replay.losses or default_losses(self.bench.recipe.task)


def prepare_update(job: UpdateJob, watch: Watch) -> UpdateBench:
    """Check all that can be checked without work; nothing is written.

    Raises RecipeError and DataError for what the update or the run's recipe names, MissingError for an engine that this
    machine lacks.
    """
    previous, settings = find_previous(job.previous), job.settings
    if job.out.resolve() == previous.given.path.resolve():
        raise RecipeError(
            f"--out: expected another folder than that of the version before, got {job.out}; give another"
        )
    require_root(job.data_root)
    bench, contenders = _bench(job, previous, watch)
    losses = settings.qat.losses or _default_losses(bench, settings)
    _check(bench, previous, settings, losses)
    earlier = tuple(_domain(bench, update, ()) for update in previous.updates)
    everywhere = tuple(term for term in settings.forgetting if term.slice is None)
    return UpdateBench(
        settings=settings,
        previous=previous,
        bench=bench,
        earlier=tuple(domain._replace(terms=everywhere) for domain in earlier),
        new=_domain(bench, settings, settings.gain),
        replayed=_replayed(bench, settings, earlier),
        contenders=contenders,
        losses=losses,
    )


def _bench(job: UpdateJob, previous: Previous, watch: Watch) -> tuple[Bench, tuple[Contender, ...]]:
    """The bench of the run, with what this update names besides, and the engines of the version before."""
    recipe = previous.recipe
    inputs = dict(_inputs(job, previous))
    engines, notes = usable_engines(recipe)
    contenders, left_out = find_contenders(previous.given, None, Trust(), recipe)
    both = {engine.backend for engine in engines} & {each.subject.name for each in contenders}
    if not both:
        raise MissingError(
            f"target.engines: expected one that runs here and that {previous.given.path} has, got none; the two "
            "versions cannot be held against each other"
        )
    validation = open_source(recipe.data.validation, job.data_root, recipe.classes)
    classes = recipe.classes or validation.classes
    run = Job(recipe, job.path, job.data_root, previous.given.path)  # images that a run has made lie in its folder
    bench = Bench(
        job=Job(recipe, job.path, job.data_root, job.out, job.resume),
        watch=watch,
        state=State(job.out / "state"),
        engines=engines,
        classes=classes,
        calibration=open_part(run, "calibration", recipe.data.calibration, classes),
        validation=_readable(validation),
        selection=validation,
        train=open_part(run, "train", recipe.data.train, classes) if recipe.data.train else None,
        inputs=inputs,
        notes=[*notes, *(f"the version before: {note}" for note in left_out)],
    )
    return bench, tuple(each for each in contenders if each.subject.name in both)


def _inputs(job: UpdateJob, previous: Previous) -> Iterator[tuple[str, Path]]:
    """Every path by its key: the run's, those of earlier updates by their names, the update's own."""
    for part in ("train", "calibration", "validation"):
        yield from find_source(f"data.{part}", getattr(previous.recipe.data, part), job.data_root).items()
    for update in (*previous.updates, job.settings):
        for part in ("train", "validation", "replay"):
            source = getattr(update.data, part)
            yield from find_source(f"{update.name}.data.{part}", source, job.data_root).items()
    yield from find_stage("qat", job.settings.qat, job.path.parent, job.data_root).items()


def _domain(bench: Bench, update: Update, terms: tuple[AccuracyTerm, ...]) -> Domain:
    root = bench.job.data_root
    train = _readable(open_source(update.data.train, root, bench.classes))
    validation = update.data.validation
    if validation is None:
        return Domain(update.name, update.data.train.format, train, None, terms)
    check_labelled(f"{update.name}.data.validation", validation, bench.recipe.task)
    source = _readable(open_source(validation, root, bench.classes))
    judged = bench.recipe.validation.model_copy(update={"slices": _slices(terms, None), "corruptions": {}})
    contract = Contract(accuracy=terms) if terms else bench.recipe.contract
    trial = replace(bench.trial, source=source, validation=judged, contract=contract)
    return Domain(update.name, update.data.train.format, train, trial, terms)


def _slices(terms: Sequence[AccuracyTerm], asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """No slices where no term speaks of one: they take the most of a bootstrap's time."""
    return asked if any(term.slice is not None for term in terms) else ()


def old_trial(update: UpdateBench) -> Trial:
    """The run's own validation images, with the slices that its bounds on forgetting speak of."""
    trial, terms = update.bench.trial, update.settings.forgetting
    changes: dict[str, object] = {"slices": _slices(terms, trial.validation.slices)}
    if all(term.slice is None for term in terms):
        changes["corruptions"] = {}
    return replace(trial, validation=trial.validation.model_copy(update=changes))


def _replayed(bench: Bench, settings: Update, earlier: Sequence[Domain]) -> Source:
    named = settings.data.replay
    if named is not None:
        return _readable(open_source(named, bench.job.data_root, bench.classes))
    run = Part(bench.recipe.name, images_of(bench))
    return join([run, *(Part(domain.name, domain.train) for domain in earlier)])


def _readable(source: Source) -> Source:
    """The source, whose first image can be read: one of the wrong kind is found before the work."""
    next(iter(source))
    return source


def _spread(source: Source, images: int) -> Source:
    return take_part(source, 1, -(-len(source) // images))


def _default_losses(bench: Bench, settings: Update) -> tuple[Loss, ...]:
    task = bench.recipe.task
    labelled = is_labelled(settings.data.train, task) and learns_labels(task)
    return (*default_losses(task), *((Labels(kind="labels"),) if labelled else ()))


def _check(bench: Bench, previous: Previous, settings: Update, losses: tuple[Loss, ...]) -> None:
    recipe = previous.recipe
    taken = [recipe.name, *(update.name for update in previous.updates)]
    if settings.name in taken:
        raise RecipeError(f"name: expected one that is not taken ({', '.join(taken)}), got {settings.name!r}; mend it")
    require_log("qat", settings.qat)
    check_qat(recipe, "qat", settings.qat.model_copy(update={"losses": losses}))
    check_labelled("data.validation", recipe.data.validation, recipe.task)
    _check_terms(bench, settings)
    label_loss(bench, "qat", losses, settings.qat)
    label_loss(bench, "replay", settings.replay.losses, settings.qat)
    if needs_labels(losses):
        check_labelled("data.train", settings.data.train, recipe.task)
    if needs_labels(settings.replay.losses):
        for source in _replay_settings(previous, settings):
            check_labelled("replay.losses", source, recipe.task)


def _replay_settings(previous: Previous, settings: Update) -> tuple[Sources, ...]:
    if settings.data.replay is not None:
        return (settings.data.replay,)
    data = previous.recipe.data
    return (data.train or data.calibration, *(update.data.train for update in previous.updates))


def _check_terms(bench: Bench, settings: Update) -> None:
    """Names that nobody measures, and a loss that nothing bounds."""
    known = metric_names(bench.recipe.task, bench.classes)
    for key in ("forgetting", "gain"):
        for index, term in enumerate(getattr(settings, key)):
            require_name(term.metric, known, f"{key}[{index}].metric", "a metric of this task")
    main = judged_metric(bench.recipe, bench.classes)
    if not any(term.metric == main and term.slice is None for term in settings.forgetting):
        got = ", ".join(term.metric for term in settings.forgetting)
        raise RecipeError(f"forgetting: expected a bound on {main}, the contract's first metric, got {got}; add one")
