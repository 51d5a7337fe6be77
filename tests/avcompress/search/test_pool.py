"""Processes of a pool end with whoever wants them, however that ended, and take along what they have started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path[:] = {path!r}
from avcompress.search.pool import Processes
from avcompress.search.trials.process import run_command

TIED = (
    "import os, sys, time; sys.path[:] = {path!r}; from avcompress.search.trials.leash import tie; "
    "tie(int(sys.argv[2])); from pathlib import Path; Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(120)"
)

FOLDER = Path({folder!r})

def work(task):
    if task < 0:
        return task
    (FOLDER / f"worker-{{task}}").write_text(str(os.getpid()))
    trial = [sys.executable, "-c", TIED, str(FOLDER / f"trial-{{task}}"), str(os.getpid())]
    run_command(trial, FOLDER / f"log-{{task}}", 120)

class Terminated(BaseException):
    pass

def leave(number, frame):
    raise Terminated

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    try:
        for number, _ in Processes(2).results(work, {tasks}):
            {then}
    except Terminated:
        sys.exit(143)
"""

Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Start a process that has a pool of two work on five tasks that never end, each with a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(tasks: str = "list(range(5))", then: str = "pass") -> "subprocess.Popen[str]":
        file = tmp_path / "program.py"
        file.write_text(PROGRAM.format(path=sys.path, folder=str(tmp_path), tasks=tasks, then=then))
        started.append(subprocess.Popen([sys.executable, str(file)], stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_nothing_outlives_a_process_that_is_killed(program: Program, tmp_path: Path) -> None:
    process = program()
    at_work = both(tmp_path)
    process.send_signal(signal.SIGKILL)

    gone_within(10, at_work)
    assert len(list(tmp_path.glob("worker-*"))) == 2  # none of them began another task


def test_a_process_that_is_asked_to_end_does_so_at_once_with_all_of_its_own(program: Program, tmp_path: Path) -> None:
    process = program()
    at_work = both(tmp_path)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=15)

    assert (process.returncode, told) == (143, "")
    gone_within(1, at_work)
    assert len(list(tmp_path.glob("worker-*"))) == 2


def test_who_wants_no_more_results_waits_for_none(program: Program, tmp_path: Path) -> None:
    process = program("[-1, 0, 1]", "break")
    _, told = process.communicate(timeout=30)

    assert (process.returncode, told) == (0, "")
    gone_within(5, [int(read(file)) for file in tmp_path.glob("*-*") if read(file)])


def both(folder: Path) -> list[int]:
    """The processes of two tasks that are under way, and those that they have started."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = [int(read(file)) for name in ("worker", "trial") for file in folder.glob(f"{name}-*") if read(file)]
        if len(found) == 4:
            return found
        time.sleep(0.05)
    raise AssertionError("expected two tasks to be under way")


def read(file: Path) -> str:
    return file.read_text() if file.name.startswith(("worker", "trial")) else ""


def gone_within(seconds: float, processes: list[int]) -> None:
    end = time.monotonic() + seconds
    while (left := [each for each in processes if alive(each)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


pytestmark = pytest.mark.skipif(not os.path.isdir("/proc"), reason="the test looks for processes in /proc")
