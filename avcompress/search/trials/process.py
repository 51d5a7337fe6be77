"""A trial in a process of its own: an ordinary run, so that a crash or a hang of it harms nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avcompress.files import write_atomically
from avcompress.outdir import is_free_within
from avcompress.search.trials.choices import Suggestion
from avcompress.search.trials.record import Record, Status, figures_of, keep_record, lines_of
from avcompress.spec import MissingError
from validation.report import Report

RECIPE, OUT, LOG = "recipe.yaml", "run", "log.txt"
_GRACE_S = 10.0
_FREE_S = 60.0
"""A trial of a search that was killed may take so long to end."""
# Gives the process this one's import path, so that it finds this package however it is installed.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from avcompress.search.trials.leash import tie; tie(int(sys.argv.pop(1))); "
    "from avcompress.__main__ import main; main()"
)
_JUDGED, _REFUSED, _LACKING = (0, 1), 2, 3


@dataclass(frozen=True)
class Task:
    """A trial that is to be run.

    Attributes:
        key: see Record, as number, tier, share and suggestion.
        recipe: the text of its recipe.
        folder: for its recipe, log, run and record.
        data_root: that the recipe's paths start from.
        cache: of the steps that trials share.
        metric: that the contract is mainly about.
        limit_s: it is ended after.
        until: as time.time() has it: it is not begun, and goes on, no longer.
    """

    key: str
    number: int
    tier: int
    share: float
    suggestion: Suggestion
    recipe: str
    folder: Path
    data_root: Path
    cache: Path
    metric: str
    limit_s: float
    until: float


Runner = Callable[[Task], Record]
"""What runs a trial, and tells what came of it; it never raises for what the trial does.

It raises MissingError where the trial's folder is not free: that says nothing of the trial.
"""


@dataclass(frozen=True)
class Saving:
    """A runner that leaves each record in its trial's folder at once: no trial is lost with a search that ends."""

    runner: Runner

    def __call__(self, task: Task) -> Record:
        """Run it, and save what came of it."""
        record = self.runner(task)
        keep_record(record, task.folder)
        return record


def run_trial(task: Task) -> Record:
    """Run a trial, as far as time allows; raises MissingError where another run does not let go of its folder."""
    if not is_free_within(task.folder / OUT, min(_FREE_S, task.until - time.time())) and time.time() < task.until:
        raise MissingError(
            f"{task.folder / OUT}: expected a trial's folder that is free, got one that another run is at work in; "
            "end that run, and go on with --resume"
        )
    left = task.until - time.time()
    if left <= 0:
        return record_of(task, "not begun", 0.0, "the budget was spent")
    write_atomically(task.folder / RECIPE, task.recipe)
    start = time.monotonic()
    code = run_command(_command(task), task.folder / LOG, min(task.limit_s, left))
    seconds = round(time.monotonic() - start, 3)
    if code is None and left < task.limit_s:
        return record_of(task, "not begun", seconds, "the budget was spent meanwhile")
    return _ended(task, code, seconds)


def record_of(task: Task, status: Status, seconds: float, message: str = "") -> Record:
    """The record of a trial without figures."""
    return Record(
        key=task.key,
        number=task.number,
        tier=task.tier,
        share=task.share,
        suggestion=dict(task.suggestion),
        status=status,
        message=message,
        seconds=seconds,
    )


def run_command(command: Sequence[str], log: Path, limit_s: float) -> int | None:
    """Run a command with all that it starts; its exit code, or None after the limit. Nothing of it outlives the call.

    A negative code is the number of the signal that killed it.
    """
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this process only, which then ends that one.
        child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return child.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and those that it has started; then end them."""
    if child.poll() is None:
        _signal(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    _signal(child.pid, signal.SIGKILL)
    child.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _command(task: Task) -> list[str]:
    places = ["--data-root", str(task.data_root), "--out", str(task.folder / OUT), "--cache", str(task.cache)]
    return command_of(["run", str(task.folder / RECIPE), *places, "--resume"])


def command_of(arguments: Sequence[str]) -> list[str]:
    """What runs avcompress with these arguments, in a process that ends with this one."""
    path = json.dumps([os.path.abspath(part) for part in sys.path])
    return [sys.executable, "-c", _BOOT, path, str(os.getpid()), *arguments]


def _ended(task: Task, code: int | None, seconds: float) -> Record:
    if code is None:
        return record_of(task, "timed out", seconds, f"ended after {task.limit_s:g} s")
    if code in (_REFUSED, _LACKING):
        return record_of(task, "refused" if code == _REFUSED else "lost", seconds, last_line(task.folder / LOG))
    path = task.folder / OUT / "report.json"
    if code not in _JUDGED or not path.is_file():
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        return record_of(task, "failed", seconds, f"{how}: {last_line(task.folder / LOG)}")
    try:
        report = Report.model_validate_json(path.read_bytes())
    except ValueError:
        return record_of(task, "failed", seconds, f"exit code {code}, and a report that cannot be read")
    found = record_of(task, "judged", seconds)
    return found.model_copy(update={"figures": figures_of(report, task.metric), "lines": lines_of(report)})


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_line(log: Path) -> str:
    """What a command has complained of at last."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    told = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("error: ") for line in told if line.startswith("error: ")]
    return (errors or told or ["it said nothing"])[-1]
