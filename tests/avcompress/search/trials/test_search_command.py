"""The command on a tiny network, with trials in processes of their own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra `search` is not installed")

Cli = Callable[..., tuple[int, str, str]]


def test_a_search_finds_a_recipe_that_run_reproduces_and_computes_shared_steps_once(
    cli: Cli, searched: Callable[..., Path], tmp_path: Path
) -> None:
    stages = [{"kind": "ptq", "ranges": {"choose": ["mse", "minmax"]}, "keep_float": {"head": False}}]
    path = searched(stages, shares=[1.0])

    code, out, err = cli("search", str(path), "--out", "found", "--json", "facts.json")

    assert (code, err) == (0, ""), err
    assert "tiny: contract met" in out
    report = json.loads((tmp_path / "facts.json").read_text())
    assert [trial["status"] for trial in report["trials"]] == ["judged", "judged"]
    (second,) = (trial["key"][:16] for trial in report["trials"][1:])
    log = (tmp_path / "found" / "trials" / second / "log.txt").read_text()
    assert any("calibrate" in line and "kept" in line for line in log.splitlines()), log
    best = next(trial for trial in report["trials"] if trial["key"] == report["chosen"])

    code, _, err = cli("run", "found/best.yaml", "--data-root", str(tmp_path), "--out", "again", "--quiet")

    assert code == 0, err
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["accuracy"]["engines"]["ort"]["mIoU"] == best["figures"]["accuracy"]


def test_a_mistake_in_an_option_ends_with_2_before_the_first_trial(
    cli: Cli, searched: Callable[..., Path], tmp_path: Path
) -> None:
    code, _, err = cli("search", str(searched([{"choose": [{"kind": "ptq"}, {"kind": "pqt"}]}])), "--out", "found")

    assert code == 2
    assert "recipe.yaml:" in err
    assert not (tmp_path / "found").exists()


def test_trials_of_two_workers_that_all_take_too_long_are_recorded_and_end_with_1(
    cli: Cli, searched: Callable[..., Path], tmp_path: Path
) -> None:
    stages = [{"kind": "ptq", "ranges": {"choose": ["mse", "minmax"]}}]
    path = searched(stages, shares=[1.0], trial_s=0.1)

    code, out, err = cli("search", str(path), "--out", "found", "--workers", "2", "--quiet")

    assert (code, err) == (1, ""), err
    assert "tiny: contract NOT met" in out
    records = [json.loads(file.read_text()) for file in (tmp_path / "found" / "trials").glob("*/record.json")]
    assert [(each["status"], each["message"]) for each in records] == [("timed out", "ended after 0.1 s")] * 2
    assert not (tmp_path / "found" / "best.yaml").exists()


def test_a_target_that_does_not_answer_is_told_before_the_first_trial(
    cli: Cli, searched: Callable[..., Path], tmp_path: Path
) -> None:
    path = searched([{"kind": "ptq", "ranges": {"choose": ["mse", "minmax"]}}])

    code, _, err = cli("search", str(path), "--out", "found", "--on", "nobody@nowhere.invalid")

    assert code == 3
    assert "--on nobody@nowhere.invalid: expected a connection by SSH" in " ".join(err.split())
    assert not (tmp_path / "found").exists()


@pytest.mark.slow
def test_trials_are_timed_on_another_machine_and_judged_by_that(
    cli: Cli, searched: Callable[..., Path], job: dict[str, Any], vehicle: str, tmp_path: Path
) -> None:
    job["contract"]["latency"] = [{"deadline_ms": 1e4, "percentile": "p50", "engine": "ort"}]
    path = searched([{"kind": "ptq", "ranges": {"choose": ["mse", "minmax"]}}], shares=[1.0], trials=1)
    remote = ["--on", "vehicle", "--remote-command", vehicle]

    code, _, err = cli("search", str(path), "--out", "found", "--json", "facts.json", "--quiet", *remote)

    assert (code, err) == (0, ""), err
    (trial,) = json.loads((tmp_path / "facts.json").read_text())["trials"]
    assert (trial["status"], trial["timed_on"]) == ("judged", "vehicle")
    (line,) = (line for line in trial["lines"] if line["timed"])
    assert line["name"] == "p50 @ ort"
    assert line["measured"] == trial["figures"]["latency_ms"]
    own = json.loads((tmp_path / "found" / "trials" / trial["key"][:16] / "run" / "report.json").read_text())
    assert own["latency"]["ort"]["total"]["p50_ms"] != trial["figures"]["latency_ms"]
    assert list((tmp_path / "there").glob("avcompress*")) == []
