"""A trial's latency measured once more: alone on this machine, or on another by SSH; and its deadlines judged by that.

What is measured is the engine that the trial has built, by `avcompress bench` in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from avcompress.contract import LatencyTerm, Measure
from avcompress.files import private_folder
from avcompress.recipe import Recipe
from avcompress.remote import RESULT, Remote, facts_from, run_remotely
from avcompress.search.trials.process import OUT, RECIPE, Task, command_of, last_line, record_of, run_command
from avcompress.search.trials.record import Line, Record
from avcompress.spec import EngineError, LateError
from engines.onnx_graph import first_line
from validation.gate_latency import line_name
from validation.latency.facts import BenchFacts, DeadlineCheck
from validation.report import Report

Bench = Callable[[Path, Sequence[str]], BenchFacts]
"""Measures the engine in a folder, with these options of `avcompress bench`.

Raises EngineError or MissingError; LateError once the time is over that all its calls may take.
"""
ALONE = "this machine, alone"


@dataclass(frozen=True)
class TimedOn:
    """Times judged trials on another machine; an interrupted connection ends the search, not the trial."""

    remote: Remote

    def __call__(self, record: Record, task: Task) -> Record:
        """The record with what was found there; raises MissingError where that machine does not answer."""
        left = task.until - time.time()
        limit_s = min(task.limit_s, left)
        try:
            return timed_again(record, task.folder, bench_on(self.remote, limit_s), self.remote.host)
        except LateError:
            if left < task.limit_s:
                return record_of(task, "not begun", record.seconds, "the budget was spent before it was timed")
            return _untimed(record, f"not timed on {self.remote.host}: ended after {limit_s:g} s")
        except EngineError as error:
            return record_of(task, "failed", record.seconds, str(error))


def _untimed(record: Record, why: str) -> Record:
    """A judged trial whose engine was not timed where its deadlines are to be kept: it keeps none of them."""
    lines = tuple(
        line.model_copy(update={"measured": None, "miss": 1.0}) if line.timed and line.sense == "<=" else line
        for line in record.lines
    )
    return _with_latency(record, None, None).model_copy(update={"lines": lines, "message": why})


def timed_again(record: Record, folder: Path, bench: Bench, where: str) -> Record:
    """A judged trial with the latency that `bench` finds of its first engine, and all deadlines held against that.

    Args:
        record: of the trial; unchanged where it was not timed at all.
        folder: of the trial.
        bench: measures.
        where: what the record says of it.

    Raises EngineError for files of the trial that are damaged, and what `bench` raises.
    """
    recipe, engines = _timed_engines(folder)
    if not engines:
        return record
    median, lines = record.figures.latency_ms, {line.name: line for line in record.lines}
    for engine, term in _asked(recipe, engines):
        facts = bench(folder / OUT / "engines" / engine, _options(recipe.measure, term))
        if engine == engines[0] and facts.scenario.scenario == "single_stream":
            median = facts.scenario.latency.p50.ms
        lines |= {line.name: line for line in _lines(term, facts.checks)}
    timed = _with_latency(record, median, None)
    return timed.model_copy(update={"lines": tuple(lines.values()), "timed_on": where, "message": ""})


def timed_in_turns(
    trials: Sequence[tuple[Record, Path]], bench_beside: Callable[[Sequence[Path]], Bench]
) -> list[Record]:
    """Judged trials with what their first engines take, run in turns; all else is as it was.

    Args:
        trials: each with its folder, two at least; all of them were timed.
        bench_beside: a bench that measures beside other engines.

    Raises what `timed_again` does.
    """
    read = [_timed_engines(folder) for _, folder in trials]
    first, *others = [
        folder / OUT / "engines" / engines[0] for (_, folder), (_, engines) in zip(trials, read, strict=True)
    ]
    facts = bench_beside(others)(first, _options(read[0][0].measure, None))
    found = zip(trials, facts.in_turns, strict=True)
    return [_with_latency(record, turn.p50_ms, turn.noise_ms) for (record, _), turn in found]


def _with_latency(record: Record, p50_ms: float | None, noise_ms: float | None) -> Record:
    figures = record.figures.model_copy(update={"latency_ms": p50_ms, "noise_ms": noise_ms})
    return record.model_copy(update={"figures": figures})


def _timed_engines(folder: Path) -> tuple[Recipe, tuple[str, ...]]:
    """A trial's recipe, and those of its engines that were timed, in order."""
    try:
        report = Report.model_validate_json((folder / OUT / "report.json").read_bytes())
        recipe = Recipe.model_validate(yaml.safe_load((folder / RECIPE).read_bytes()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise EngineError(
            f"{folder}: expected the trial's recipe and report, got damaged ones: {first_line(error)}"
        ) from error
    return recipe, tuple(report.latency)


def _asked(recipe: Recipe, engines: Sequence[str]) -> Iterator[tuple[str, LatencyTerm | None]]:
    """Every engine's deadlines, and of the first one, in any case, one image after the other: None, without one."""
    for engine in engines:
        own = [term for term in recipe.contract.latency if term.engine == engine]
        yield from ((engine, term) for term in own)
        if engine == engines[0] and all(term.scenario != "single_stream" for term in own):
            yield engine, None


def _options(measure: Measure, term: LatencyTerm | None) -> list[str]:
    options = ["--runs", str(measure.runs), "--warmup", str(measure.warmup), "--load", str(measure.background_load)]
    if term is None:
        return options
    options += ["--scenario", term.scenario, "--deadline-ms", repr(term.deadline_ms), "--decide", term.decide]
    if term.scenario != "single_stream":
        options += ["--rate", repr(measure.rate_hz), "--queue", measure.queue]
    if term.scenario == "multi_camera":
        options += ["--cameras", str(measure.cameras), "--phases", measure.phases]
    options += ["--percentile", term.percentile] if term.percentile is not None else []
    return options + (["--max-miss-rate", repr(term.max_miss_rate)] if term.max_miss_rate is not None else [])


def _lines(term: LatencyTerm | None, checks: Sequence[DeadlineCheck]) -> Iterator[Line]:
    for check in checks if term is not None else ():
        missed = check.limit if check.measured is None else max(check.measured - check.limit, 0.0)
        yield Line(
            name=line_name(term, check.name) if term is not None else check.name,
            measured=check.value,
            sense="<=",
            limit=check.limit,
            miss=0.0 if check.passed else max(missed / max(check.limit, 1e-9), 1e-9),
            timed=True,
        )


# --- where


def bench_here(limit_s: float, beside: Sequence[Path] = ()) -> Bench:
    """On this machine; beside other engines, where there are any, in turns with them."""
    end = time.monotonic() + limit_s
    others = [part for other in beside for part in ("--beside", str(other))]

    def bench(folder: Path, options: Sequence[str]) -> BenchFacts:
        with private_folder() as place:
            facts, log = place / RESULT, place / "log.txt"
            command = command_of(["bench", str(folder), *options, *others, "--json", str(facts), "--quiet"])
            code = run_command(command, log, _left(end))
            if code is None:
                raise LateError(f"bench: expected an end within {limit_s:g} s, got none")
            if code not in (0, 1) or not facts.is_file():
                raise EngineError(last_line(log))
            return BenchFacts.model_validate_json(facts.read_bytes())

    return bench


def bench_on(remote: Remote, limit_s: float, beside: Sequence[Path] = ()) -> Bench:
    """On another one, likewise."""
    end = time.monotonic() + limit_s
    files = {f"beside-{number}": other for number, other in enumerate(beside)}
    others = [part for name in files for part in ("--beside", name)]

    def bench(folder: Path, options: Sequence[str]) -> BenchFacts:
        arguments = ["bench", folder.name, *options, *others, "--json", RESULT, "--quiet"]
        hasty = replace(remote, limit_s=_left(end))
        return facts_from(remote, BenchFacts, run_remotely(hasty, arguments, {folder.name: folder, **files}))

    return bench


def bench_at(remote: Remote | None, limit_s: float, beside: Sequence[Path] = ()) -> Bench:
    """On another one, or on this one: None."""
    return bench_here(limit_s, beside) if remote is None else bench_on(remote, limit_s, beside)


def _left(end: float) -> float:
    """The seconds until then, as time.monotonic() has it; raises LateError where there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise LateError("bench: expected some time for it, got none; give the search a larger budget")
    return left
