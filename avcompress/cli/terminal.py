"""What commands share of the terminal: the console, progress, numbers, JSON files."""

from __future__ import annotations

import json
import math
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress.spec import Check, RecipeError, Verdict, check_text
from avcompress.symbols import spelled, tick

if TYPE_CHECKING:
    from avcompress.judging.validating import Validated
    from avcompress.pipeline import Outcome
    from avcompress.watch import Watch
    from validation.report import Report

MET = ("contract met", "contract NOT met")


class _Console(Console):
    """A console that outlives its reader: a run goes on when `| head` has seen enough."""

    def on_broken_pipe(self) -> None:
        """Write to nobody from now on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_console() -> Console:
    """A console as wide as the terminal; 120 columns without colour where there is none."""
    if sys.stdout.isatty():
        return _Console(highlight=False)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else 120
    return _Console(highlight=False, width=min(max(width, 80), 1000), no_color=True)


def open_watch(console: Console, quiet: bool) -> Watch:
    """Who watches the steps: bars on a terminal, lines elsewhere, nobody when quiet."""
    from avcompress.watch import BarWatch, PlainWatch, SilentWatch

    if quiet:
        return SilentWatch()
    return BarWatch(console) if console.is_terminal else PlainWatch(console)


def show_outcome(console: Console, outcome: Outcome | Validated) -> None:
    """Print the verdict, what is broken first, and where the report is."""
    show_verdict(console, outcome.report.recipe, outcome.verdict)
    if outcome.out is not None:
        console.print(f"report: {outcome.out / 'report.html'}", soft_wrap=True, markup=False)


def write_outcome(outcome: Outcome | Validated, json_file: Path | None, junit_file: Path | None) -> None:
    """Write the report as JSON and the verdict as JUnit XML, where asked to."""
    if json_file:
        write_json(json_file, outcome.report.model_dump(mode="json"))
    if junit_file:
        write_junit(junit_file, outcome.report.recipe, outcome.verdict, outcome.report)


def show_verdict(console: Console, name: str, verdict: Verdict, words: tuple[str, str] = MET) -> None:
    """Print a verdict line by line: the checks that fail first; below the table what is known of each."""
    title = Text(words[0], "bold green") if verdict.passed else Text(words[1], "bold red")
    console.print(Text.assemble((name, "bold"), ": ", title))
    if verdict.checks:
        console.print(_checks_table(console, verdict))
    for check in verdict.failures:
        note = f"; {check.note}" if check.note else ""
        console.print(f"failed: {check.name}: {check_text(check)}{note}", soft_wrap=True, markup=False)
    for check in verdict.checks:
        if check.passed and check.note:
            console.print(f"kept: {check.name}: {check.note}", soft_wrap=True, markup=False)


def _checks_table(console: Console, verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "check", "measured", "interval", "contract"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for check in sorted(verdict.checks, key=lambda check: check.passed):
        rule = "" if check.decide == "point" else f", {check.decide}"
        table.add_row(
            _mark(console, check.passed),
            Text(check.name),
            _number(check.measured, check),
            _interval(check),
            f"{check.sense} {_number(check.limit, check)}{rule}",
        )
    return table


def _interval(check: Check) -> Text:
    if check.low is None and check.high is None:
        return Text("")
    low, high = ("?" if end is None else _figure(end, check) for end in (check.low, check.high))
    return Text(f"{low} to {high}")


def _mark(console: Console, passed: bool) -> Text:
    text = tick(console) if passed else spelled(console, "✗", "FAILED")
    return Text(text, "green" if passed else "bold red")


def _number(value: float, check: Check) -> str:
    if math.isnan(value):
        return "not measured"
    return f"{_figure(value, check)} {check.unit}".rstrip()


def _figure(value: float, check: Check) -> str:
    return f"{value:.0f}" if check.sense == "==" else f"{value:.4g}" if check.unit else f"{value:.4f}"


def check_json(path: Path | None, out: Path | None, inputs: tuple[Path, ...], option: str = "--json") -> None:
    """Raise RecipeError, before the work, for a file that could not be written or would harm another one."""
    if path is None:
        return
    target = path.resolve()
    if target.is_dir():
        raise RecipeError(f"{option}: expected a file, got a folder at {path}; name a file in it")
    if out is not None and target.is_relative_to(out.resolve()):
        raise RecipeError(f"{option}: expected a file outside --out, got {path}; the same facts are there")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RecipeError(f"{option}: expected a file in a folder that you may write to, got {path}; give another path")
    if target in [each.resolve() for each in inputs]:
        raise RecipeError(f"{option}: expected a file of its own, got the input {path}; give another path")


def check_cache(path: Path | None, out: Path) -> Path | None:
    """The folder of shared steps, absolute; raises RecipeError, before the work, for one that could not be."""
    if path is None:
        return None
    if path.exists() and not path.is_dir():
        raise RecipeError(f"--cache: expected a folder, got a file at {path}; give another path")
    if path.resolve().is_relative_to(out.resolve()):
        raise RecipeError(f"--cache: expected a folder outside --out, got {path}; runs that share it must all find it")
    return path.resolve()


def write_json(path: Path, facts: object) -> None:
    """Write facts as indented JSON."""
    from avcompress.files import write_atomically

    write_atomically(path, json.dumps(facts, indent=2) + "\n")


def write_junit(path: Path, name: str, verdict: Verdict, report: Report | None = None) -> None:
    """Write a verdict as JUnit XML, with what a report knows of time and machine."""
    from avcompress.files import write_atomically
    from validation.junit import junit_xml

    created = datetime.now(timezone.utc) if report is None else report.created
    seconds = 0.0 if report is None else sum(stage.seconds for stage in report.stages)
    about = {} if report is None else {"cpu": report.machine.cpu, "os": report.machine.os, **report.versions}
    write_atomically(path, junit_xml(name, verdict.checks, created, seconds, about))
