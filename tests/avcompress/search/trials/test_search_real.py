"""Searches on the tiny network with real trials: some crash, some hang, time is up, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra `search` is not installed")
pytestmark = pytest.mark.slow

Cli = Callable[..., tuple[int, str, str]]
STAGES = [{"kind": "ptq", "ranges": {"choose": ["mse", "minmax", "entropy"]}, "keep_float": {"head": False}}]
BAD = """
import os, time

def crash():
    os.abort()

def hang():
    time.sleep(1e6)
"""


def records(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(file.read_text()) for file in out.glob("trials/*/record.json")]
    return sorted(found, key=lambda record: record["number"])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; "
            "from avcompress.__main__ import main; main()", "search", *arguments]  # fmt: skip


def test_a_trial_that_crashes_and_one_that_hangs_are_recorded_and_the_third_wins(
    cli: Cli, job: dict[str, Any], searched: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    models = [{"factory": f"bad:{name}", "import_from": "."} for name in ("crash", "hang")]
    job["model"] = {"choose": [*models, {"onnx": "net.onnx"}]}
    path = searched([{"kind": "ptq", "keep_float": {"head": False}}], shares=[1.0], trial_s=60)

    code, _, err = cli("search", str(path), "--out", "found", "--quiet")

    assert (code, err) == (0, ""), err
    by_option = {each["suggestion"]["model"]: each for each in records(tmp_path / "found")}
    assert [by_option[option]["status"] for option in range(3)] == ["failed", "timed out", "judged"]
    assert "SIGABRT" in by_option[0]["message"]
    assert by_option[1]["message"] == "ended after 60 s"
    assert "net.onnx" in (tmp_path / "found" / "best.yaml").read_text()


def test_when_the_budget_is_spent_a_search_says_so_and_a_larger_one_goes_on(
    cli: Cli, searched: Callable[..., Path], tmp_path: Path
) -> None:
    code, out, err = cli("search", str(searched(STAGES, shares=[1.0], budget_s=0.5)), "--out", "found", "--quiet")

    assert (code, err) == (1, ""), err
    assert "the budget was spent before all was tried" in out
    assert records(tmp_path / "found") == []

    code, out, err = cli("search", str(searched(STAGES, shares=[1.0])), "--out", "found", "--quiet", "--resume")

    assert (code, err) == (0, ""), err
    assert len(records(tmp_path / "found")) == 3


@pytest.mark.parametrize(
    ("workers", "number", "code"),
    [("1", signal.SIGINT, 130), ("2", signal.SIGTERM, 143), ("2", signal.SIGKILL, -signal.SIGKILL)],
)
def test_however_a_search_is_ended_its_trials_end_too_and_resume_repeats_no_finished_one(
    searched: Callable[..., Path], tmp_path: Path, workers: str, number: signal.Signals, code: int
) -> None:
    path, out = searched(STAGES, shares=[1.0]), tmp_path / "found"
    search = subprocess.Popen(
        command(str(path), "--out", str(out), "--workers", workers),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while search.poll() is None and (not records(out) or len(list(out.glob("trials/*/run/state"))) < 2):
        time.sleep(0.05)
    search.send_signal(number)
    _, complaint = search.communicate(timeout=60)

    assert search.returncode == code, complaint
    assert "go on with: avcompress search" in complaint or number == signal.SIGKILL
    end = time.monotonic() + (60 if number == signal.SIGKILL else 0)
    while at_work(out) and time.monotonic() < end:
        time.sleep(0.05)
    assert not at_work(out)
    before = {each["key"]: each for each in records(out)}
    assert len(before) in (1, 2)
    again = subprocess.run(
        command(str(path), "--out", str(out), "--resume"), check=False, cwd=tmp_path, capture_output=True
    )
    assert again.returncode == 0, again.stderr
    after = {each["key"]: each for each in records(out)}
    assert len(after) == 3
    assert {key: after[key]["seconds"] for key in before} == {key: before[key]["seconds"] for key in before}


def at_work(out: Path) -> bool:
    """Whether any process still runs a trial of a search."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            told = process.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(out / "trials") in told and int(process.parent.name) != os.getpid():
            return True
    return False
