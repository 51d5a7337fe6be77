import subprocess
import sys
from pathlib import Path

import pytest

from avcompress.outdir import LOCK, occupy
from avcompress.spec import RecipeError


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def earlier_run(out: Path) -> None:
    with occupy(out, resume=False, backends=["ort"]):
        for name in ("model.onnx", "report.json", "report.html", "recipe.yaml", "state/ptq/step.json"):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text("earlier")
        for backend in ("ort", "openvino"):
            (out / "engines" / backend).mkdir(parents=True)
            (out / "engines" / backend / "manifest.json").write_text("{}")


def test_a_new_run_keeps_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    earlier_run(tmp_path / "out")
    with occupy(tmp_path / "out", resume=False, backends=["ort"]):
        assert names(tmp_path / "out") == {LOCK}


def test_a_resumed_run_keeps_finished_steps_and_its_engines_but_no_verdict(tmp_path: Path) -> None:
    earlier_run(tmp_path / "out")
    with occupy(tmp_path / "out", resume=True, backends=["ort"]):
        assert names(tmp_path / "out") == {LOCK, "recipe.yaml", "state/ptq/step.json", "engines/ort/manifest.json"}


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    earlier_run(out)
    for name in (
        ".report.json.a.tmp",
        "state/.0-ptq.b.tmp/x",
        "engines/.ort.c.tmp/x",
        "engines/ort/.manifest.json.d.tmp",
    ):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("half")

    with occupy(out, resume=True, backends=["ort"]):
        assert not [name for name in names(out) if ".tmp" in name]


@pytest.mark.parametrize("name", ["thesis.txt", "model.onnx", "engines/mine.bin", "state/mine.json", ".hidden"])
def test_files_of_somebody_else_are_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("years of work")

    with pytest.raises(RecipeError, match="--out"), occupy(tmp_path, resume=False, backends=[]):
        pass
    assert names(tmp_path) == {name}


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("x")
    match = "--out: expected a folder, got a file"
    with pytest.raises(RecipeError, match=match), occupy(tmp_path / out, resume=False, backends=[]):
        pass


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_is_over(tmp_path: Path) -> None:
    with occupy(tmp_path / "out", resume=False, backends=[]):
        (tmp_path / "out" / "model.onnx").write_text("of the first run")
        with pytest.raises(RecipeError, match="another run"), occupy(tmp_path / "out", resume=False, backends=[]):
            pass
        assert "model.onnx" in names(tmp_path / "out")
    with occupy(tmp_path / "out", resume=False, backends=[]):
        pass


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    code = f"""
import os, pathlib
from avcompress.outdir import occupy
with occupy(pathlib.Path({str(tmp_path / "out")!r}), False, []):
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9

    with occupy(tmp_path / "out", resume=True, backends=[]):
        pass
