"""`avcompress targets` as a user's terminal sees it, and the page that repeats its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avcompress.cli.targets import HEADS, row
from engines.profile_load import all_profiles, profile_names
from engines.profile_schema import profile_schema

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "import avcompress.cli.targets; from avcompress.cli import main; main()"


def run(*arguments, columns=120):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "targets", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": str(columns)},
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_every_target_is_listed_in_a_table_that_fits(tmp_path, columns):
    done = run("--json", tmp_path / "facts.json", columns=columns)
    lines = done.stdout.splitlines()

    assert (done.returncode, done.stderr) == (0, "")
    names = profile_names()
    assert [line.split()[0] for line in lines if line.split() and line.split()[0] in names] == list(names)
    assert max(map(len, lines)) <= columns
    assert lines[-1].startswith(f"{len(names)} targets")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert [each["name"] for each in facts] == list(names)
    orin = next(each for each in facts if each["name"] == "orin-agx")
    newest = next(each for each in orin["platforms"] if each["name"] == "jetpack-6.2")
    assert {"dialect": "strong", "dla_dialect": "dla-implicit", "capabilities": "tensorrt-10"}.items() <= newest.items()


def test_one_target_is_shown_with_platforms_dialects_and_sources():
    done = run("orin-agx@jetpack-6.2", columns=200)
    lines = [line.rstrip() for line in done.stdout.splitlines()]

    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0] == "orin-agx: Jetson AGX Orin 64GB"
    line = next(line for line in lines if line.startswith("peak.int8"))
    assert line.split(None, 2)[1:] == [
        "85",
        "Jetson AGX Orin Series data sheet DS-10662-001 v1.6: half of 170 TOPS sparse",
    ]
    assert next(line for line in lines if line.startswith("channel_alignment.int8")).split()[2] == "?"
    chosen = next(line for line in lines if line.startswith("jetpack-6.2 *"))
    assert chosen.split()[2:7] == ["tensorrt", "10.3", "12.6", "strong", "dla-implicit"]
    assert next(line for line in lines if line.startswith("jetpack-7.2 ")).split()[4:6] == ["strong", "-"]


def test_an_own_file_is_listed_and_shown(tmp_path):
    (tmp_path / "ours.yaml").write_text("extends: orin-nx\ntitle: Our board\n")

    assert "\nours " in run("--profiles", tmp_path).stdout
    assert run("ours", "--profiles", tmp_path).stdout.startswith("ours: Our board\n")
    assert run(tmp_path / "ours.yaml@jetpack-5.1").stdout.startswith("ours: Our board\n")


def test_a_mistake_exits_with_2_in_one_line(tmp_path):
    (tmp_path / "bad.yaml").write_text("extends: orin-nx\nmemory: 5\n")

    for arguments in (
        ["orin-agz"],
        ["--profiles", tmp_path / "none"],
        [tmp_path / "bad.yaml"],
        ["--profiles", tmp_path],
    ):
        done = run(*arguments, "--json", tmp_path / "facts.json")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
    assert not (tmp_path / "facts.json").exists()
    assert "bad.yaml:2: memory: unknown key; did you mean memory_gb?" in done.stderr


def test_json_does_not_replace_the_profile_that_is_shown(tmp_path):
    path = tmp_path / "ours.yaml"
    path.write_text("extends: orin-nx\n")

    for name in (path, f"{path}@jetpack-6.2"):
        done = run(name, "--json", path)
        assert done.returncode == 2
        assert "--json: expected a file of its own" in done.stderr
    assert path.read_text() == "extends: orin-nx\n"


def test_the_schema_is_printed():
    assert json.loads(run("--schema").stdout) == profile_schema()


def test_listing_loads_no_heavy_library():
    code = (
        "import sys, avcompress.cli.targets, engines.profile_load as p; p.all_profiles(); "
        "sys.exit(bool({'onnx', 'torch', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_s_table_is_that_of_the_data():
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    start = page.index(f"| {' | '.join(HEADS)} |")
    table = page[start : page.index("\n\n", start)].splitlines()

    assert table[2:] == [f"| {' | '.join(row(profile))} |" for profile in all_profiles()]


def test_the_page_s_example_is_a_profile_that_loads(tmp_path):
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    (tmp_path / "our-board.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])

    done = run("our-board", "--profiles", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert "our-board: " in done.stdout
