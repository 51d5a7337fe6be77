"""A search: a recipe with choices, trials of what they give, and the best one as an ordinary recipe."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from avcompress.files import make_folder, write_atomically
from avcompress.known_inputs import KnownInputs
from avcompress.recipe import Recipe
from avcompress.remote import Remote, require_remote
from avcompress.running.bench import Bench, Job, check_recipe, prepare
from avcompress.running.early_stop import judged_metric
from avcompress.search.pool import Here, Pool, Processes
from avcompress.search.ray_pool import connected, everywhere
from avcompress.search.trials.away import Away, MachineLook, StepsRemoval, lost
from avcompress.search.trials.halving import STEPS, TRIALS, Ground, cheapest_suggestion, search
from avcompress.search.trials.page import PAGE, render
from avcompress.search.trials.process import Runner, run_trial
from avcompress.search.trials.record import Record, save_record
from avcompress.search.trials.report import BEST, JSON, MARKDOWN, SearchReport, markdown, report_of
from avcompress.search.trials.sampler import open_sampler
from avcompress.search.trials.space import Space
from avcompress.search.trials.spending import SPENT, counted
from avcompress.search.trials.timing import ALONE, TimedOn, bench_at, bench_here, timed_again, timed_in_turns
from avcompress.search.trials.writing import recipe_text
from avcompress.spec import AvcompressError, LateError, MissingError, RecipeError
from avcompress.watch import SilentWatch, Watch, took
from validation.machine import processors, runtime_versions

LOCK = "lock"
_MOST = 16
"""Engines that are run in turns: all are loaded at once."""
_REMOVAL_S = 4.0
"""For machines of a cluster to remove what they have kept."""
OURS = (TRIALS, STEPS, JSON, MARKDOWN, PAGE, BEST, LOCK, SPENT)


@dataclass(frozen=True, eq=False)
class SearchJob:
    """What to search, on which data, and where the results go; the paths are absolute.

    Attributes:
        resume: keep the finished trials of an earlier search in `out`.
        workers: trials at a time, on each machine.
        runner: what runs a trial.
        ray: address of a Ray cluster, as `ray_pool.connected` takes it; None: this machine.
        remote: the machine that trials are timed on; None: where they run.
    """

    space: Space
    data_root: Path
    out: Path
    resume: bool = False
    workers: int = 1
    runner: Runner = run_trial
    ray: str | None = None
    remote: Remote | None = None


def execute_search(job: SearchJob, watch: Watch) -> SearchReport:
    """Search from end to end; the report, and the best recipe where anything could be judged, lie in `out` then.

    Raises AvcompressError for bad input and for what this machine lacks, before the first trial; RecipeError where
    every trial was refused, MissingError where every one was lost, with what the first one was told.
    """
    settings = job.space.settings
    open_sampler(settings.sampler, settings.seed, job.space.choices, 0)  # is Optuna there?
    recipe = job.space.recipe(cheapest_suggestion(job.space))
    bench = prepare(Job(recipe, job.space.path, job.data_root, job.out), SilentWatch())
    metric = judged_metric(recipe, bench.classes)
    if job.remote is not None:
        require_remote(job.remote)
    with _occupied(job.out, job.resume), counted(job.out) as before:
        until = time.time() + settings.budget_s - before
        with _pool(job) as place:
            records = search(_ground(job, bench, metric, (place[0], until), watch))
        _require_one(records)
        report = report_of(recipe.name, metric, records, settings.prefer)
        disturbed = place[1] > 1 or job.ray is not None or bool(recipe.contract.latency)
        report = _compared(job, report, until, disturbed and job.remote is None, watch)
        _write(job, report)
    return report


@contextlib.contextmanager
def _pool(job: SearchJob) -> Iterator[tuple[Pool, int]]:
    """Where trials are run, and how many at a time."""
    if job.ray is None:
        yield (Here() if job.workers == 1 else Processes(job.workers)), job.workers
        return
    steps = hashlib.sha256(f"{socket.gethostname()} {job.out}".encode()).hexdigest()[:16]
    with connected(job.ray, job.workers, MachineLook(job.data_root, runtime_versions())) as cluster:
        try:
            yield Away(replace(cluster, lost=lost), steps), cluster.slots
        finally:
            everywhere(StepsRemoval(steps), _REMOVAL_S)


def _require_one(records: Sequence[Record]) -> None:
    """Raise what the first trial was told where nothing came of any: RecipeError or MissingError."""
    ends = {record.status for record in records}
    if ends == {"refused"}:
        raise RecipeError(f"every trial was refused, the first one so: {records[0].message}")
    if ends == {"lost"}:
        raise MissingError(f"every trial was lost, the first one so: {records[0].message}")


def _ground(job: SearchJob, bench: Bench, metric: str, place: tuple[Pool, float], watch: Watch) -> Ground:
    pool, until = place
    return Ground(
        space=job.space,
        out=job.out,
        data_root=job.data_root,
        metric=metric,
        known=_known(job, bench.classes),
        check=check_recipe,
        until=until,
        runner=job.runner,
        pool=pool,
        timer=TimedOn(job.remote) if job.remote is not None else None,
        tell=lambda record, kept: watch.note(_told(record, kept)),
    )


def _compared(job: SearchJob, report: SearchReport, until: float, again: bool, watch: Watch) -> SearchReport:
    """The report by latencies that compare: those of trials are of different moments.

    Deadlines are judged by what an engine takes alone, which is measured `again` where trials had disturbed each other,
    ran elsewhere, or are held to one; which of several is faster, by runs in turns.
    """
    report = _timed_alone(job, report, until, watch) if again else report
    chosen = _comparable(report, again, until)
    return _in_turns(job, report, chosen, watch) if len(chosen) > 1 else report


def _comparable(report: SearchReport, again: bool, until: float) -> list[Record]:
    """As many trials as may be loaded at once, of those whose engines run here: what decides most, then the fastest.

    That is the best one, then the front, and until the budget is spent, all others, first what a time alone has beaten.
    """
    timed = [each for each in _whole(report) if each.figures.latency_ms is not None and (each.timed_on or not again)]
    decisive = {report.chosen, *report.front}
    due = timed if time.time() < until else [each for each in timed if each.key in decisive]

    def urgency(each: Record) -> tuple[Any, ...]:
        missed = each.miss(timed=False) > 0
        return each.key != report.chosen, each.key not in decisive, missed, each.figures.latency_ms, each.number

    return sorted(due, key=urgency)[:_MOST]


def _whole(report: SearchReport) -> list[Record]:
    return [each for each in report.trials if each.status == "judged" and each.share == 1]


def _in_turns(job: SearchJob, report: SearchReport, chosen: Sequence[Record], watch: Watch) -> SearchReport:
    """The report once these trials' engines were run in turns, which is saved; or with a note that they were not.

    Where that fails, engines that do not run by themselves either are left out; a connection that is lost ends it.
    """
    folders = [job.out / TRIALS / each.key[:16] for each in chosen]
    bench = partial(bench_at, job.remote, len(chosen) * job.space.settings.trial_s)
    try:
        found = timed_in_turns(list(zip(chosen, folders, strict=True)), bench)
    except (OSError, AvcompressError) as error:
        why = str(error).replace(f"{job.out}/", "")  # the results may be moved
        lost = isinstance(error, MissingError) and not isinstance(error, LateError)
        able = [] if lost else [each for each in chosen if _runs_alone(job, each)]
        if not 1 < len(able) < len(chosen):
            return _noted(report, f"{len(chosen)} trials are not timed in turns: {why}", watch)
        numbers = ", ".join(str(each.number) for each in chosen if each not in able)
        return _in_turns(job, _noted(report, f"not timed in turns: {numbers}: {why}", watch), able, watch)
    for record, folder in zip(found, folders, strict=True):
        save_record(record, folder)
    return _with(job, report, found)


def _runs_alone(job: SearchJob, record: Record) -> bool:
    try:
        timed_again(record, job.out / TRIALS / record.key[:16], bench_at(job.remote, job.space.settings.trial_s), "")
    except (OSError, AvcompressError):
        return False
    return True


def _noted(report: SearchReport, note: str, watch: Watch) -> SearchReport:
    watch.note(note)
    return report.model_copy(update={"notes": (*report.notes, note)})


def _with(job: SearchJob, report: SearchReport, found: Sequence[Record]) -> SearchReport:
    fresh = {(record.key, record.share): record for record in found}
    trials = [fresh.get((each.key, each.share), each) for each in report.trials]
    changed = report_of(report.recipe, report.metric, trials, job.space.settings.prefer)
    return changed.model_copy(update={"notes": report.notes})


def _timed_alone(job: SearchJob, report: SearchReport, until: float, watch: Watch) -> SearchReport:
    """The report once trials were timed with nothing beside.

    The front and the best one always are; then, until the budget is spent, all others that a latency alone keeps from
    being the best. One whose engine does not run here, as that of another machine of a cluster, keeps the latency that
    it had there.
    """
    tried = set[str]()
    while (record := _next_untimed(report, tried, until)) is not None:
        tried.add(record.key)
        report = _with(job, report, [_alone(job, record, watch)])
    return report


def _next_untimed(report: SearchReport, tried: Collection[str], until: float) -> Record | None:
    judged = [each for each in report.trials if each.status == "judged" and each.key not in tried]
    untimed = [each for each in judged if not each.timed_on]
    compared = [each for each in untimed if each.key in {*report.front, report.chosen}]
    others = [each for each in untimed if each.share == 1 and each.miss(timed=False) == 0]
    return next(iter(compared + others if time.time() < until else compared), None)


def _alone(job: SearchJob, record: Record, watch: Watch) -> Record:
    """A record once its trial was timed alone, which is saved; or as it was, where that could not be."""
    folder = job.out / TRIALS / record.key[:16]
    try:
        found = timed_again(record, folder, bench_here(job.space.settings.trial_s), ALONE)
    except (OSError, AvcompressError) as error:
        watch.note(f"trial {record.number} is not timed alone: {error}")
        return record
    save_record(found, folder)
    return found


def _known(job: SearchJob, classes: tuple[str, ...]) -> Callable[[Recipe], Any]:
    """What stands for all that a recipe reads, for the runtimes of engines, and for the machine that it is timed on.

    On a cluster that is this machine, where the best are timed at last; the cluster's others have the same runtimes.
    """
    inputs = KnownInputs(job.space.path.parent, job.data_root, classes)
    place = runtime_versions(), processors() if job.remote is None else job.remote.host
    return lambda recipe: [*inputs(recipe), *place]


def _told(record: Record, kept: bool) -> str:
    accuracy = record.figures.accuracy
    reached = "" if accuracy is None else f", accuracy {accuracy:.4f}"
    outcome = "keeps the contract" if record.met else ", ".join(record.broken) or record.message
    spent = "kept from the last search" if kept else took(record.seconds)
    return f"trial {record.number} at {record.share:g}: {record.status}{reached}: {outcome} ({spent})"


def _write(job: SearchJob, report: SearchReport) -> None:
    write_atomically(job.out / JSON, report.model_dump_json(indent=1) + "\n")
    write_atomically(job.out / MARKDOWN, markdown(report))
    write_atomically(job.out / PAGE, render(report, job.space, job.out))
    if report.best is not None:
        chosen: Recipe = job.space.recipe(report.best.suggestion)
        verdict = "keeps the contract" if report.met else f"does not keep: {', '.join(report.binding)}"
        head = f"# Found by avcompress search in {job.space.path.name}; {verdict}.\n"
        write_atomically(job.out / BEST, head + recipe_text(chosen, job.space.path.parent, job.out))


@contextlib.contextmanager
def _occupied(out: Path, resume: bool) -> Iterator[None]:
    """Make a folder ready for a search and keep others out of it; raises RecipeError where it is not a search's."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"--out: expected a folder, got a file at {out}; give another --out")
    foreign = sorted(path.name for path in out.iterdir() if path.name not in OURS) if out.exists() else []
    if foreign:
        raise RecipeError(
            f"{out}: expected a new folder or an earlier search's, got one with {foreign[0]!r}; give another --out"
        )
    make_folder(out)
    descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecipeError(f"{out}: expected a folder of its own, got one that a search is at work in") from error
        _clear(out, resume)
        yield
    finally:
        os.close(descriptor)


def _clear(out: Path, resume: bool) -> None:
    for name in (JSON, MARKDOWN, PAGE, BEST):
        (out / name).unlink(missing_ok=True)
    if not resume:
        (out / SPENT).unlink(missing_ok=True)
        for name in (TRIALS, STEPS):
            shutil.rmtree(out / name, ignore_errors=True)
