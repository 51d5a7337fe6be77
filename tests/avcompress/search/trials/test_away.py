"""Trials that run in a folder of their own, as on another machine; the pool is this process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from avcompress.search.pool import Here
from avcompress.search.trials import away
from avcompress.search.trials.away import Away, MachineLook, StepsRemoval, data_root_here, lost, steps_folder
from avcompress.search.trials.process import LOG, OUT, RECIPE, Task, record_of
from avcompress.search.trials.record import Record
from avcompress.search.trials.space import load_space
from avcompress.searching import SearchJob, execute_search
from avcompress.watch import SilentWatch


def trial(folder: Path, data_root: Path, recipe: str = "name: x\n") -> Task:
    return Task(
        key="k", number=7, tier=0, share=1.0, suggestion={"a": 1}, recipe=recipe, folder=folder,
        data_root=data_root, cache=folder.parent / "steps", metric="mIoU", limit_s=60, until=1e12,
    )  # fmt: skip


class Writer:
    """Writes what a run would, and notes where."""

    def __init__(self) -> None:
        self.seen: list[Task] = []

    def __call__(self, task: Task) -> Record:
        self.seen.append(task)
        (task.folder / RECIPE).write_text(task.recipe)
        (task.folder / LOG).write_text("said\n")
        for name in ("report.json", "state/lock", "state/0-fit/values.npy", "engines/ort/state/model.onnx"):
            (task.folder / OUT / name).parent.mkdir(parents=True, exist_ok=True)
            (task.folder / OUT / name).write_text(name)
        return record_of(task, "failed", 1.5, "as the test wants it")


def sent(task: Task) -> tuple[Record, Task]:
    writer = Writer()
    ((number, record),) = Away(Here(), "test").results(writer, [task])
    assert number == 0
    return record, writer.seen[0]


def test_a_trial_runs_in_a_folder_that_is_gone_afterwards_and_its_files_come_back(tmp_path: Path) -> None:
    task = trial(tmp_path / "out" / "trial", tmp_path)
    record, there = sent(task)

    assert record == record_of(task, "failed", 1.5, "as the test wants it")
    assert there.folder != task.folder
    assert not there.folder.exists()
    found = {path.relative_to(task.folder).as_posix() for path in task.folder.rglob("*") if path.is_file()}
    assert found == {RECIPE, LOG, f"{OUT}/report.json", f"{OUT}/engines/ort/state/model.onnx"}  # without run/state


def test_what_a_recipe_imports_is_found_from_the_other_folder(tmp_path: Path) -> None:
    recipe = yaml.safe_dump({"model": {"import_from": "../../code", "module": "m"}, "stages": [{"kind": "ptq"}]})
    task = trial(tmp_path / "out" / "trial", tmp_path, recipe)
    _, there = sent(task)

    moved = yaml.safe_load(there.recipe)
    assert (there.folder / moved["model"]["import_from"]).resolve() == tmp_path / "code"
    assert moved["stages"] == [{"kind": "ptq"}]


def test_files_of_an_earlier_try_do_not_stay(tmp_path: Path) -> None:
    task = trial(tmp_path / "out" / "trial", tmp_path)
    task.folder.mkdir(parents=True)
    (task.folder / "stale").touch()
    sent(task)

    assert not (task.folder / "stale").exists()


def test_a_trial_whose_machines_were_lost_leaves_no_files(tmp_path: Path) -> None:
    class Losing:
        def results(self, _work, tasks):
            yield 0, lost(tasks[0], "the node is dead")

    task = trial(tmp_path / "out" / "trial", tmp_path)
    ((_, record),) = Away(Losing(), "test").results(Writer(), [task])

    assert (record.status, record.number) == ("lost", 7)
    assert "the node is dead" in record.message
    assert not task.folder.exists()


def test_a_machine_that_has_the_data_elsewhere_says_so_by_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, own = tmp_path / "given", tmp_path / "own"
    own.mkdir()
    assert data_root_here(given) == given
    assert "got no such folder" in MachineLook(given, {})()
    monkeypatch.setenv("AVCOMPRESS_DATA", str(own))
    assert data_root_here(given) == own
    assert MachineLook(given, {})() == ""
    given.mkdir()
    assert data_root_here(given) == given


def test_a_machine_with_another_version_of_a_runtime_is_told_to_install_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(away, "runtime_versions", lambda: {"onnx": "1", "openvino": "2", "tensorrt": "3"})

    assert MachineLook(tmp_path, {"onnx": "1", "openvino": "2", "onnxruntime": "4"})() == ""
    told = MachineLook(tmp_path, {"onnx": "1", "openvino": "5"})()
    assert told == "expected openvino 5 as here, got 2; install the same version"


def test_shared_steps_are_removed_from_a_machine_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    steps_folder("one").mkdir()
    steps_folder("two").mkdir()
    StepsRemoval("one")()

    assert not steps_folder("one").exists()
    assert steps_folder("two").exists()


def test_a_search_gives_the_same_here_and_away(
    searched: Callable[..., Path], fake_runner: type, tmp_path: Path
) -> None:
    pytest.importorskip("optuna", reason="the extra `search` is not installed")
    job = SearchJob(load_space(searched()), tmp_path, tmp_path / "here", runner=fake_runner())
    here = execute_search(job, SilentWatch())
    runner = fake_runner()
    away = replace(job, out=tmp_path / "away", runner=lambda task: sent_by(runner, task))

    assert execute_search(away, SilentWatch()) == here


def sent_by(runner: Callable[[Task], Record], task: Task) -> Record:
    ((_, record),) = Away(Here(), "test").results(runner, [task])
    return record
