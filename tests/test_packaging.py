"""What a wheel holds: five packages side by side, with the files that they read at run time."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"avcompress", "calibration", "engines", "ros_nodes", "validation"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\n")
    for name in filter(None, files):  # a clean copy: a build writes into the tree that it builds
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(source)], check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_s_top_level_is_exactly_the_five_packages(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == PACKAGES


def test_the_wheel_holds_the_files_that_the_packages_read(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {
        "avcompress/demo/detector.yaml",
        "avcompress/demo/segmenter.yaml",
        "validation/templates/report.html.j2",
    } <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    profiles = {path.relative_to(ROOT).as_posix() for path in (ROOT / "engines" / "profiles").iterdir()}
    assert "engines/profiles/orin-agx.yaml" in profiles
    assert profiles <= names


def test_no_source_file_is_longer_than_500_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert long == {}
