import json

import onnx
import pytest
from pydantic import ValidationError

from avcompress.contract import AccuracyTerm, Contract
from avcompress.recipe import OrtEngine, Preprocess, Segmentation
from avcompress.spec import EngineError
from engines.manifest import Manifest, Tensor, network_tensors, read_manifest, write_manifest


def make(**changes):
    facts = {
        "name": "tiny",
        "engine": OrtEngine(backend="ort"),
        "versions": {"avcompress": "0.1.0", "onnxruntime": "1.0"},
        "inputs": (Tensor(name="x", shape=(1, 3, 4, 4)),),
        "outputs": (Tensor(name="y", shape=(1, 2, 4, 4)),),
        "preprocess": Preprocess(size=(4, 4)),
        "task": Segmentation(kind="segmentation"),
        "classes": ("road", "car"),
        "contract": Contract(accuracy=(AccuracyTerm(metric="mIoU", min=0.7),)),
        "onnx_sha256": "0" * 64,
        "recipe_sha256": "f" * 64,
    }
    return Manifest(**{**facts, **changes})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"abc")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "model.bin").write_bytes(b"0123456789")
    return tmp_path


def test_a_manifest_is_read_back_as_it_was_written(folder):
    written = write_manifest(folder, make())

    assert read_manifest(folder) == written
    assert set(written.files) == {"model.onnx", "deep/model.bin"}
    assert written.files["model.onnx"].size_bytes == 3
    # sha256 of "abc": FIPS 180-2, appendix B.1
    assert written.files["model.onnx"].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert json.loads((folder / "manifest.json").read_text())["schema_version"] == 2
    assert written.platform


def test_writing_twice_gives_the_same_manifest(folder):
    assert write_manifest(folder, make(platform="here")) == write_manifest(folder, make(platform="here"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abd", r"model.onnx: expected sha256 ba7816bf8f01…, got a52d159f262b…: the file was altered"),
        (b"ab", r"model.onnx: expected 3 bytes, got 2"),
        (None, r"model.onnx: expected the file that the manifest names, got No such file"),
    ],
    ids=["altered", "truncated", "missing"],
)
def test_a_file_that_is_not_what_it_was_is_named(folder, content, message):
    write_manifest(folder, make())
    (folder / "model.onnx").unlink() if content is None else (folder / "model.onnx").write_bytes(content)

    with pytest.raises(EngineError, match=message):
        read_manifest(folder)
    assert read_manifest(folder, verify=False).backend == "ort"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:40], "got the file: Invalid JSON"),
        (
            lambda text: text.replace('"schema_version": 2', '"schema_version": 1'),
            "manifest of schema 2, got schema 1, of another version of avcompress; build the engine again",
        ),
        (lambda text: text.replace('"schema_version": 2', f'"schema_version": {"9" * 4000}'), "got schema_version"),
        (lambda text: text.replace('"platform"', '"\\u001b[2Jx"'), r"got \[2Jx: Extra inputs are not permitted"),
        (lambda text: text.replace('"tiny"', '"a b"'), "got name: String should match pattern"),
        (lambda text: text.replace('"platform"', '"platforms"'), "got platforms: Extra inputs are not permitted"),
        (
            lambda text: text.replace('"classes"', '"files": {}, "classes"'),
            "expected every key once, got 'files' twice",
        ),
        (lambda text: text.replace('"min": 0.7', '"min": NaN'), "got contract.accuracy.0.min"),
        (lambda text: text.replace("{", "[") + "[" * 100_000, "got the file: Invalid JSON"),
    ],
    ids=["truncated", "schema 1", "schema 9…", "escape", "name", "other key", "a key twice", "nan", "deep"],
)
def test_a_bad_manifest_is_one_line(folder, change, message):
    write_manifest(folder, make())
    path = folder / "manifest.json"
    path.write_text(change(path.read_text()))

    with pytest.raises(EngineError, match=message) as caught:
        read_manifest(folder)

    assert "\n" not in str(caught.value)


def test_a_folder_without_a_manifest_is_one_line(tmp_path):
    with pytest.raises(
        EngineError, match="expected a manifest, got No such file or directory; check the path, or copy"
    ):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/etc/passwd", "a/../../b", "a\\b", "", "a//b", "a/", ".", ".hidden", "é", "a\n", "c:x", "a."],
)
def test_a_manifest_names_no_file_outside_its_folder(name):
    with pytest.raises(ValidationError, match="beside the manifest"):
        make(files={name: {"sha256": "0" * 64, "size_bytes": 1}})


@pytest.mark.parametrize("names", [("a", "A"), ("x/a", "X/a"), ("manifest.json",), ("Manifest.SIG",)])
def test_a_manifest_names_no_file_that_another_name_may_stand_for(names):
    with pytest.raises(ValidationError, match="differ in more than their case"):
        make(files={name: {"sha256": "0" * 64, "size_bytes": 1} for name in names})


def test_what_a_file_manager_leaves_behind_is_no_part_of_an_engine(folder):
    (folder / ".DS_Store").touch()
    (folder / "manifest.sig").touch()
    assert set(write_manifest(folder, make()).files) == {"model.onnx", "deep/model.bin"}


def test_a_file_whose_name_not_every_disk_takes_is_refused(folder):
    (folder / "mödel").touch()
    with pytest.raises(EngineError, match="got 'mödel'; rename or remove it"):
        write_manifest(folder, make())


def test_a_huge_manifest_is_not_read(folder):
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(EngineError, match="a manifest of at most 16777216 bytes, got more"):
        read_manifest(folder)


def test_the_tensors_come_from_the_network(tmp_path, two_convs):
    onnx.save(two_convs, tmp_path / "net.onnx")

    inputs, outputs = network_tensors(tmp_path / "net.onnx")

    assert inputs == (Tensor(name="x", shape=(1, 16, 16, 16)),)
    assert outputs == (Tensor(name="y", shape=(1, 32, 16, 16)),)
