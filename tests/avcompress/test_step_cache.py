import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from avcompress.state import State
from avcompress.step_cache import StepCache
from engines.manifest import read_manifest


def writing(calls: list[str], text: str = "42") -> Callable[[Path], None]:
    def compute(folder: Path) -> None:
        calls.append(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "result.txt").write_text(text)

    return compute


def state(tmp_path: Path, run: str) -> State:
    return State(tmp_path / run, StepCache(tmp_path / "cache"))


def test_a_step_that_one_run_took_is_not_computed_by_another_at_another_place_in_its_recipe(tmp_path: Path) -> None:
    calls: list[str] = []
    state(tmp_path, "a").step("1-ptq", "key", writing(calls))

    assert state(tmp_path, "b").seconds("3-ptq", "key") is not None
    folder = state(tmp_path, "b").step("3-ptq", "key", writing(calls))

    assert calls == ["42"]
    assert folder == tmp_path / "b" / "3-ptq"
    assert (folder / "inner" / "result.txt").read_text() == "42"


@pytest.mark.parametrize(("name", "key"), [("1-ptq", "other"), ("1-qat", "key")])
def test_another_key_or_kind_of_step_is_computed(tmp_path: Path, name: str, key: str) -> None:
    calls: list[str] = []
    state(tmp_path, "a").step("1-ptq", "key", writing(calls))
    state(tmp_path, "b").step(name, key, writing(calls, "43"))

    assert calls == ["42", "43"]


def test_a_run_keeps_its_steps_when_the_cache_is_removed_and_the_cache_when_the_run_is(tmp_path: Path) -> None:
    calls: list[str] = []
    state(tmp_path, "a").step("ptq", "key", writing(calls))
    shutil.rmtree(tmp_path / "a")
    state(tmp_path, "b").step("ptq", "key", writing(calls))
    shutil.rmtree(tmp_path / "cache")

    assert state(tmp_path, "b").seconds("ptq", "key") is not None
    assert calls == ["42"]


def test_a_damaged_step_of_the_cache_is_computed_again_and_replaced(tmp_path: Path) -> None:
    calls: list[str] = []
    cache = StepCache(tmp_path / "cache")
    state(tmp_path, "a").step("ptq", "key", writing(calls))
    (cache.place("ptq", "key") / "inner" / "result.txt").write_text("damaged")
    state(tmp_path, "b").step("ptq", "key", writing(calls))
    state(tmp_path, "c").step("ptq", "key", writing(calls))

    assert calls == ["42", "42"]


def test_on_a_disk_without_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    calls: list[str] = []
    for run in "ab":
        folder = state(tmp_path, run).step("ptq", "key", writing(calls))

    assert calls == ["42"]
    assert (folder / "inner" / "result.txt").read_text() == "42"


def test_two_runs_that_need_a_step_at_once_compute_it_once(tmp_path: Path) -> None:
    calls: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        begun.set()
        may_end.wait(10)
        writing(calls)(folder)

    first = threading.Thread(target=lambda: state(tmp_path, "a").step("ptq", "key", slow))
    second = threading.Thread(target=lambda: state(tmp_path, "b").step("ptq", "key", writing(calls)))
    first.start()
    begun.wait(10)
    second.start()
    second.join(0.2)
    waited = second.is_alive()
    may_end.set()
    first.join()
    second.join()

    assert waited
    assert calls == ["42"]
    assert (tmp_path / "b" / "ptq" / "inner" / "result.txt").exists()


def test_a_second_run_with_the_cache_computes_only_what_its_recipe_changes(
    cli: Callable[..., tuple[int, str, str]], job: dict[str, Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(job))
    first = cli("run", str(recipe), "--out", "a", "--cache", "cache")
    job["stages"][0]["ranges"] = "minmax"
    recipe.write_text(yaml.safe_dump(job))
    second = cli("run", str(recipe), "--out", "b", "--cache", "cache")

    assert (first[0], second[0]) == (0, 0), second[2]
    kept = [line for line in second[1].splitlines() if "kept from the last run" in line]
    for step in ("read the validation labels", "calibrate", "predict, float network"):
        assert any(step in line for line in kept), second[1]
    assert not any("quantize" in line or "build ort" in line for line in kept)
    assert json.loads((tmp_path / "b" / "report.json").read_text())["passed"]


def test_a_run_that_comes_to_the_same_network_takes_its_engine_from_the_cache(
    cli: Callable[..., tuple[int, str, str]], job: dict[str, Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(job))
    cli("run", str(recipe), "--out", "a", "--cache", "cache")
    job["name"] = "another"
    recipe.write_text(yaml.safe_dump(job))
    shutil.rmtree(tmp_path / "a")
    code, out, err = cli("run", str(recipe), "--out", "b", "--cache", "cache")

    assert (code, err) == (0, "")
    assert any("build ort" in line and "kept from the last run" in line for line in out.splitlines()), out
    assert read_manifest(tmp_path / "b" / "engines" / "ort").name == "another"


def test_an_engine_that_was_lost_since_is_put_back_without_building_it(
    cli: Callable[..., tuple[int, str, str]], job: dict[str, Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(job))
    cli("run", str(recipe), "--out", "a")
    built = (tmp_path / "a" / "engines" / "ort" / "model.onnx").read_bytes()
    shutil.rmtree(tmp_path / "a" / "engines" / "ort")
    code, out, _ = cli("run", str(recipe), "--out", "a", "--resume")

    assert code == 0
    assert any("build ort" in line and "kept from the last run" in line for line in out.splitlines()), out
    assert read_manifest(tmp_path / "a" / "engines" / "ort")
    assert (tmp_path / "a" / "engines" / "ort" / "model.onnx").read_bytes() == built


def test_a_cache_that_is_a_file_or_within_the_output_is_refused(
    cli: Callable[..., tuple[int, str, str]], job: dict[str, Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(job))

    for place, got in ((str(recipe), "got a file"), ("out/cache", "outside --out")):
        code, _, err = cli("run", str(recipe), "--out", "out", "--cache", place)
        assert code == 2
        assert "--cache: " in err
        assert got in err
