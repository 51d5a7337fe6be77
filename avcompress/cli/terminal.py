"""What commands share of the terminal: the console, progress, numbers, JSON files."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress.spec import Check, RecipeError
from avcompress.symbols import spelled, tick

if TYPE_CHECKING:
    from avcompress.pipeline import Outcome
    from avcompress.watch import Watch


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


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Print the verdict line by line, and where the report is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "check", "measured", "contract"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for check in outcome.verdict.checks:
        table.add_row(
            _mark(console, check.passed),
            check.name,
            _number(check.measured, check),
            f"{check.sense} {_number(check.limit, check)}",
        )
    met = outcome.verdict.passed
    title = Text("contract met" if met else "contract NOT met", "bold green" if met else "bold red")
    console.print(Text.assemble((outcome.report.recipe, "bold"), ": ", title))
    console.print(table)
    for check in outcome.verdict.failures:
        console.print(
            f"failed: {check.name}: expected {check.sense} {_number(check.limit, check)}, "
            f"{'' if math.isnan(check.measured) else 'measured '}{_number(check.measured, check)}",
            soft_wrap=True,
            markup=False,
        )
    console.print(f"report: {outcome.out / 'report.html'}", soft_wrap=True, markup=False)


def _mark(console: Console, passed: bool) -> Text:
    text = tick(console) if passed else spelled(console, "✗", "FAILED")
    return Text(text, "green" if passed else "bold red")


def _number(value: float, check: Check) -> str:
    if math.isnan(value):
        return "not measured"
    text = f"{value:.0f}" if check.sense == "==" else f"{value:.4g}" if check.unit else f"{value:.4f}"
    return f"{text} {check.unit}".rstrip()


def check_json(path: Path | None, out: Path | None, inputs: tuple[Path, ...]) -> None:
    """Raise RecipeError, before the work, for a --json that could not be written or would harm another file."""
    if path is None:
        return
    target = path.resolve()
    if target.is_dir():
        raise RecipeError(f"--json: expected a file, got a folder at {path}; name a file in it")
    if out is not None and target.is_relative_to(out.resolve()):
        raise RecipeError(
            f"--json: expected a file outside --out, got {path}; the same facts are in {out / 'report.json'}"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RecipeError(f"--json: expected a file in a folder that you may write to, got {path}; give another path")
    if target in [each.resolve() for each in inputs]:
        raise RecipeError(f"--json: expected a file of its own, got the input {path}; give another path")


def write_json(path: Path, facts: object) -> None:
    """Write facts as indented JSON."""
    from avcompress.files import write_atomically

    write_atomically(path, json.dumps(facts, indent=2) + "\n")
