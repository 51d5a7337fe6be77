"""From a finished run to a signed bundle: the folder of a run, then the commands as a user's CI sees them."""

import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from avcompress.bundling import ForDevice, create_bundle
from avcompress.pipeline import execute
from avcompress.rebuilding import rebuild_bundle
from avcompress.recipe import Recipe
from avcompress.running.bench import Job
from avcompress.spec import EngineError, OutputError, RecipeError
from avcompress.watch import SilentWatch
from calibration.statistics_file import load_statistics
from engines.bundle import Trust, load_bundle, sign_bundle, verify_bundle
from engines.manifest import read_manifest
from engines.ort import open_ort
from engines.signing import generate_key, load_private_key
from engines.tensorrt.device import Device

UNSIGNED = Trust(allow_unsigned=True)


def recipe(**changes: Any) -> dict[str, Any]:
    facts = {
        "name": "tiny",
        "task": {"kind": "segmentation"},
        "model": {"onnx": "net.onnx"},
        "classes": ["low", "high"],
        "preprocess": {"size": [24, 32], "scale": 1 / 255},
        "data": {
            "calibration": {"format": "images", "images": "images"},
            "validation": {"format": "masks", "images": "images", "labels": "masks"},
        },
        "stages": [{"kind": "ptq", "ranges": "percentile", "keep_float": {"head": False}}],
        "target": {"engines": [{"backend": "ort", "required": False}, {"backend": "openvino", "threads": 1}]},
        "contract": {
            "accuracy": [{"metric": "mIoU", "min": 0.0}],
            "latency": [{"percentile": "p90", "deadline_ms": 1e6}],
        },
        "measure": {"warmup": 1, "runs": 10},
    }
    return facts | changes


def execute_in(folder: Path, facts: dict[str, Any], resume: bool = False) -> Path:
    (folder / "recipe.yaml").write_text(json.dumps(facts))
    job = Job(Recipe.model_validate(facts), folder / "recipe.yaml", folder, folder / "out", resume)
    execute(job, SilentWatch())
    return folder / "out"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, a network of two convolutions, six images."""
    folder, rng = tmp_path_factory.mktemp("material"), np.random.default_rng(0)
    weights = [rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((16, 3, 3, 3), (2, 16, 3, 3))]
    nodes = [
        helper.make_node("Conv", ["images", "w0"], ["a"], name="c0", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="r0"),
        helper.make_node("Conv", ["b", "w1"], ["logits"], name="c1", pads=[1] * 4),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 24, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, 24, 32])
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "tiny", [image], [logits], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray(rng.integers(0, 2, (24, 32), dtype=np.uint8)).save(folder / "masks" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def whole_run(material: Path) -> Path:
    """A finished run; not to be changed."""
    return execute_in(material, recipe())


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_bundle_of_a_run_says_what_was_built_calibrated_and_measured(
    whole_run: Path, tmp_path: Path, backend: str
) -> None:
    create_bundle(whole_run, backend, tmp_path / "b", revision=7)
    manifest = verify_bundle(tmp_path / "b", UNSIGNED).manifest
    report = json.loads((whole_run / "report.json").read_text())

    assert (manifest.name, manifest.revision, manifest.backend, manifest.gpu) == ("tiny", 7, backend, None)
    assert manifest.engine.required
    assert manifest.onnx_sha256 == hashlib.sha256((whole_run / "model.onnx").read_bytes()).hexdigest()
    assert manifest.recipe_sha256 == hashlib.sha256((whole_run / "recipe.yaml").read_bytes()).hexdigest()
    assert manifest.classes == ("low", "high")
    assert manifest.contract.latency[0].percentile == "p90"
    measured, calibration = manifest.measured, manifest.calibration
    assert measured is not None
    assert calibration is not None
    assert measured.passed
    assert measured.metrics["ort"]["mIoU"] == report["accuracy"]["engines"]["ort"]["mIoU"]
    assert measured.latency["openvino"]["p90_ms"] == report["latency"]["openvino"]["total"]["p90_ms"]
    assert measured.latency["openvino"]["p99_ms"] is None  # ten runs
    assert measured.machine["cpu"] == report["machine"]["cpu"]
    assert (calibration.images, calibration.ranges) == (6, "percentile 99.99")
    statistics = whole_run / "state" / "0-calibrate" / "calibration.stats"
    assert calibration.statistics_sha256 == hashlib.sha256(statistics.read_bytes()).hexdigest()
    names = {path.relative_to(tmp_path / "b").as_posix() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert names == {*manifest.files, "manifest.json"}
    load_bundle(tmp_path / "b", UNSIGNED).session.close()


def test_a_file_of_statistics_is_the_provenance_of_a_run_without_images(
    material: Path, whole_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(material, tmp_path / "m", ignore=shutil.ignore_patterns("out")))
    shutil.copyfile(whole_run / "state" / "0-calibrate" / "calibration.stats", folder / "some.stats")
    facts = recipe(stages=[{"kind": "ptq", "statistics": "some.stats"}])
    facts["target"]["engines"] = [{"backend": "openvino"}]
    found = read_manifest(execute_in(folder, facts) / "engines" / "openvino").calibration

    assert found is not None
    assert found.images == len(load_statistics(folder / "some.stats").images)
    assert found.statistics_sha256 == hashlib.sha256((folder / "some.stats").read_bytes()).hexdigest()


def test_bundles_of_one_run_are_equal(whole_run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        create_bundle(whole_run, "openvino", tmp_path / name)

    found = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("a", "b")
    ]
    assert found[0] == found[1]


def test_a_run_of_an_earlier_avcompress_is_resumed_and_its_engines_built_anew(material: Path, run: Path) -> None:
    folder = Path(shutil.copytree(material, run.parent / "m", ignore=shutil.ignore_patterns("out")))
    run.rename(folder / "out")
    path = folder / "out" / "engines" / "ort" / "manifest.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"schema_version": 1}))
    with pytest.raises(EngineError, match="schema 1, of another version of avcompress"):
        create_bundle(folder / "out", "ort", folder / "b")

    execute_in(folder, recipe(), resume=True)

    create_bundle(folder / "out", "ort", folder / "b")


@pytest.mark.parametrize("name", ["engines/ort/model.onnx", "model.onnx"])
def test_what_was_altered_since_the_run_is_not_bundled(run: Path, tmp_path: Path, name: str) -> None:
    (run / name).write_bytes((run / name).read_bytes() + b"x")
    with pytest.raises(EngineError, match=f"{name}: expected"):
        create_bundle(run, "ort", tmp_path / "b")

    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.json", "report.json: expected the folder of a run that has ended, got No such file"),
        ("model.onnx", "model.onnx: expected the network that the engine was built from, got none"),
        ("engines/ort/model.onnx", "expected the file that the manifest names, got No such file"),
    ],
)
def test_what_a_run_lacks_is_named(run: Path, tmp_path: Path, name: str, message: str) -> None:
    (run / name).unlink()
    with pytest.raises((EngineError, RecipeError), match=message):
        create_bundle(run, "ort", tmp_path / "b")


def test_an_engine_that_the_run_did_not_build_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"--engine: expected one that the run built \(openvino, ort\), got 'trt_rtx'"
    ):
        create_bundle(run, "trt_rtx", tmp_path / "b")
    (run / "report.json").write_text("{}")
    with pytest.raises(RecipeError, match="expected the report of this version"):
        create_bundle(run, "ort", tmp_path / "b")


def test_a_bundle_is_not_made_inside_its_run(run: Path) -> None:
    with pytest.raises(RecipeError, match="--out: expected a folder outside the run's"):
        create_bundle(run, "ort", run / "bundle")


def test_a_run_that_missed_its_contract_is_bundled_only_when_that_is_allowed(material: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(material, tmp_path / "m", ignore=shutil.ignore_patterns("out")))
    facts = recipe(contract={"accuracy": [{"metric": "mIoU", "min": 1.0}]})
    facts["target"]["engines"] = [{"backend": "ort"}]
    out = execute_in(folder, facts)
    with pytest.raises(RecipeError, match=r"got one that did not \(mIoU @ ort\)"):
        create_bundle(out, "ort", tmp_path / "b")

    measured = create_bundle(out, "ort", tmp_path / "b", allow_unmet=True).measured

    assert measured is not None
    assert not measured.passed


@pytest.mark.parametrize(
    ("target", "name", "backend", "dialect", "flags"),
    [
        ("orin-agx@jetpack-6.2", "orin-agx@jetpack-6.2", "trt", "strong", ()),
        ("drive-orin", "drive-orin@drive-os-6.0.10", "trt", "weak", ("int8",)),
        ("rtx-4090", "rtx-4090@tensorrt-rtx-1.7", "trt_rtx", "strong", ()),
        ("cpu@openvino", "cpu@openvino", "openvino", None, ()),
    ],
)
def test_a_bundle_for_a_device_that_is_not_here_holds_all_but_the_engine(
    whole_run: Path, tmp_path: Path, target: str, name: str, backend: str, dialect: str | None, flags: tuple[str, ...]
) -> None:
    create_bundle(whole_run, ForDevice(target), tmp_path / "b", revision=7)
    create_bundle(whole_run, ForDevice(target), tmp_path / "again", revision=7)

    manifest = verify_bundle(tmp_path / "b", UNSIGNED).manifest
    assert (manifest.target, manifest.backend, manifest.dialect, manifest.flags) == (name, backend, dialect, flags)
    assert list(manifest.files) == ["model.onnx"]
    assert (tmp_path / "b" / "model.onnx").read_bytes() == (whole_run / "model.onnx").read_bytes()
    assert (manifest.revision, manifest.gpu, set(manifest.versions)) == (7, None, {"avcompress", "onnx"})
    assert manifest.calibration is not None
    assert manifest.measured is not None
    assert (tmp_path / "b" / "manifest.json").read_bytes() == (tmp_path / "again" / "manifest.json").read_bytes()
    with pytest.raises(EngineError, match=f"one for {name} whose engine is yet to be built"):
        load_bundle(tmp_path / "b", UNSIGNED)


@pytest.mark.parametrize(
    ("version", "target", "dialect", "flags"),
    [
        ("8.6.1", None, "weak", ("int8",)),
        ("10.3.0", "orin-agx@jetpack-6.2", "strong", ()),
    ],
)
def test_a_run_on_a_device_says_in_which_dialect_it_built_and_holds_each_layer_against_the_plan(
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    target: str | None,
    dialect: str,
    flags: tuple[str, ...],
) -> None:
    folder = Path(shutil.copytree(material, tmp_path / "m", ignore=shutil.ignore_patterns("out")))
    fake = Path(__file__).parents[1] / "engines" / "tensorrt" / "fake"
    monkeypatch.syspath_prepend(str(fake))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(fake), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("FAKE_TENSORRT", json.dumps({"version": version}))
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # so that the fake is gone at the end
    del sys.modules["tensorrt"]
    for module in ("engines.build", "engines.machine"):
        monkeypatch.setattr(f"{module}.find_device", lambda: Device("Orin", "8.7", "CUDA 12.6"))
    # The fake builds and runs nothing: ONNX Runtime stands in for the engine.
    monkeypatch.setattr("engines.build.open_trt", lambda *_: open_ort(folder / "out" / "model.onnx"))
    facts = recipe(contract={"accuracy": [{"metric": "mIoU", "min": 0.0}]})
    facts["target"] = {"engines": [{"backend": "trt", "target": target}]}

    out = execute_in(folder, facts)

    built = read_manifest(out / "engines" / "trt")
    assert (built.dialect, built.flags, built.versions["tensorrt"]) == (dialect, flags, version)
    assert built.gpu is not None
    assert built.gpu.name == "Orin"
    # The fake does not say what its layers run in: that never passes.
    report = json.loads((out / "report.json").read_text())
    (line,) = [line for line in report["contract"] if line["name"] == "layers as planned @ trt"]
    assert (line["measured"], line["passed"]) == (2, False)
    create_bundle(out, "trt", tmp_path / "b", allow_unmet=True)
    found = rebuild_bundle(tmp_path / "b", UNSIGNED, tmp_path / "again")
    assert (found.manifest.dialect, found.manifest.flags) == (dialect, flags)
    assert [mismatch.name for mismatch in found.mismatches or ()] == ["c0", "c1"]


def test_ranges_for_a_dla_come_along_and_what_it_cannot_take_is_refused_before_the_bundle(
    whole_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "ranges.json").write_text('{"a": [-3, 3]}')
    asked = ForDevice("orin-agx@jetpack-6.0", dla=1, ranges=tmp_path / "ranges.json")
    manifest = create_bundle(whole_run, asked, tmp_path / "b")

    assert sorted(manifest.files) == ["model.onnx", "ranges.json"]
    assert manifest.dialect == "dla-implicit"
    assert manifest.engine.model_dump()["dla"] == 1
    for target, message in (("thor", "expected a DLA"), ("cpu@openvino", "--dla: expected a target with a DLA")):
        with pytest.raises(RecipeError, match=message):
            create_bundle(whole_run, ForDevice(target, dla=0), tmp_path / "no")
    with pytest.raises(RecipeError, match="--ranges: expected a readable file, got No such file"):
        create_bundle(whole_run, ForDevice("orin-agx@jetpack-6.0", dla=0, ranges=tmp_path / "none"), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_full_disk_leaves_no_bundle(whole_run: Path, tiny_disk: Path) -> None:
    (tiny_disk / "taken").write_bytes(bytes(52 << 10))
    with pytest.raises(OutputError, match="No space left on device"):
        create_bundle(whole_run, "openvino", tiny_disk / "b")

    assert [path.name for path in tiny_disk.iterdir()] == ["taken"]


def test_a_create_that_is_killed_leaves_no_bundle(whole_run: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from avcompress import bundling\n"
        "def stop(*_): print('in the middle', flush=True); time.sleep(60)\n"
        "bundling.write_manifest = stop\n"
        "bundling.create_bundle(Path(sys.argv[1]), 'openvino', Path(sys.argv[2]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(whole_run), str(tmp_path / "b")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "in the middle\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()

    assert not (tmp_path / "b").exists()
    create_bundle(whole_run, "openvino", tmp_path / "b")


# --- the command line


def avcompress(folder: Path, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "avcompress", "bundle", *arguments]
    done = subprocess.run(
        command, cwd=folder, text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def assert_refused(result: tuple[int, str, str], *parts: str, code: int = 2) -> None:
    status, out, err = result
    assert (status, out) == (code, ""), err
    assert len(err.splitlines()) == 1, err
    for part in ("error: ", *parts):
        assert part in err


def test_from_a_run_to_a_rebuilt_and_packed_bundle(whole_run: Path, tmp_path: Path) -> None:
    steps = [
        ("create", str(whole_run), "--engine", "openvino", "--out", "b", "--revision", "2"),
        ("keygen", "--out", "keys/a.pem"),
        ("sign", "b", "--key", "keys/a.pem"),
        ("verify", "b", "--key", "keys/a.pem.pub", "--name", "tiny", "--min-revision", "2", "--json", "m.json"),
        ("show", "b"),
        ("rebuild", "b", "--key", "keys/a.pem.pub", "--out", "new"),
        ("sign", "new", "--key", "keys/a.pem"),
        ("verify", "new", "--key", "keys/a.pem.pub"),
        ("pack", "new", "--out", "new.zip"),
        ("unpack", "new.zip", "--out", "unpacked"),
        ("verify", "unpacked", "--key", "keys/a.pem.pub"),
    ]
    said = {}
    for step in steps:
        status, said[step[0]], err = avcompress(tmp_path, *step)
        assert (status, err) == (0, ""), (step, err)

    assert "whole, signed by" in said["verify"]
    assert "calibrated on: 6 images, ranges percentile 99.99" in said["show"]
    assert "contract: met, 3 checks" in said["show"]
    assert json.loads((tmp_path / "m.json").read_text()) == json.loads((tmp_path / "b/manifest.json").read_text())
    assert_refused(avcompress(tmp_path, "verify", "b", "--key", "keys/a.pem.pub", "--min-revision", "3"), "revision 3")


@pytest.mark.rtx
def test_a_bundle_for_a_device_is_signed_carried_and_built_there(whole_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    steps = [
        ("create", str(whole_run), "--target", "rtx-4090", "--out", "b"),
        ("keygen", "--out", "keys/a.pem"),
        ("sign", "b", "--key", "keys/a.pem"),
        ("pack", "b", "--out", "b.zip"),
        ("unpack", "b.zip", "--out", "there"),
        ("verify", "there", "--key", "keys/a.pem.pub"),
        ("show", "there"),
        ("rebuild", "there", "--key", "keys/a.pem.pub", "--out", "here", "--json", "here.json"),
    ]
    said = {}
    for step in steps:
        status, said[step[0]], err = avcompress(tmp_path, *step)
        assert (status, err) == (0, ""), (step, err)

    assert "engine: trt_rtx, yet to be built on rtx-4090@tensorrt-rtx-1.7" in said["show"]
    assert said["rebuild"].startswith("[1/1] rebuild there: ")
    new = json.loads((tmp_path / "here.json").read_text())
    assert (new["rebuilt_from"] is None, "engine/model.engine" in new["files"]) == (False, True)
    for wrong in ((), ("--engine", "ort", "--target", "rtx-4090")):
        assert_refused(
            avcompress(tmp_path, "create", str(whole_run), *wrong, "--out", "c"), "--engine: expected it, or"
        )


def test_what_is_wrong_with_a_bundle_is_one_line_and_exit_code_2(whole_run: Path, tmp_path: Path) -> None:
    create_bundle(whole_run, "ort", tmp_path / "b")
    for name in ("a", "other"):
        generate_key(tmp_path / name, None)

    assert_refused(avcompress(tmp_path, "verify", "b"), "--key: expected a public key")
    assert_refused(avcompress(tmp_path, "verify", "b", "--key", "a.pub"), "b/manifest.sig", "got none")
    status, out, _ = avcompress(tmp_path, "verify", "b", "--allow-unsigned")
    assert (status, "NOT signed" in out) == (0, True)
    assert_refused(avcompress(tmp_path, "rebuild", "b", "--key", "a.pub", "--out", "c"), "b/manifest.sig")
    assert_refused(avcompress(tmp_path, "sign", "b", "--key", "a.pub"), "expected a private key, got a public one")
    sign_bundle(tmp_path / "b", load_private_key(tmp_path / "a"))
    assert_refused(avcompress(tmp_path, "verify", "b", "--key", "other.pub"), "a key that you trust")
    assert avcompress(tmp_path, "verify", "b", "--key", "other.pub", "--key", "a.pub")[0] == 0
    (tmp_path / "b" / "engine" / "model.onnx").write_bytes(b"x")
    assert_refused(avcompress(tmp_path, "verify", "b", "--key", "a.pub"), "b/engine/model.onnx: expected")
    assert_refused(avcompress(tmp_path, "verify", "b", "--key", "a.pub", "--json", "b/facts.json"), "outside --out")
    assert_refused(avcompress(tmp_path, "show", "none"), "none/manifest.json: expected a manifest")
    assert_refused(avcompress(tmp_path, "keygen", "--out", "."), ".: expected a new file")


def test_what_a_stranger_wrote_into_a_manifest_does_not_reach_the_terminal(whole_run: Path, tmp_path: Path) -> None:
    create_bundle(whole_run, "ort", tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"platform": "\x1b[2Jgone\r\n"}))
    status, out, _ = avcompress(tmp_path, "show", "b")

    assert (status, "\x1b" in out) == (0, False)
    assert "built on: ?[2Jgone??" in out


def test_a_passphrase_comes_from_a_file(whole_run: Path, tmp_path: Path) -> None:
    create_bundle(whole_run, "ort", tmp_path / "b")
    (tmp_path / "words").write_bytes(b"correct horse\r\n")
    (tmp_path / "wrong").write_bytes(b"wrong")
    (tmp_path / "empty").write_bytes(b"\n")

    assert_refused(
        avcompress(tmp_path, "keygen", "--out", "a", "--passphrase-file", "empty"), "expected one line, got none"
    )
    assert_refused(avcompress(tmp_path, "keygen", "--out", "a", "--passphrase-file", "none"), "got No such file")
    assert_refused(avcompress(tmp_path, "keygen", "--out", "a", "--passphrase"), "expected a terminal to ask at")
    assert avcompress(tmp_path, "keygen", "--out", "a", "--passphrase-file", "words")[0] == 0
    assert_refused(avcompress(tmp_path, "keygen", "--out", "a"), "expected a new file, got one that is there")
    assert_refused(avcompress(tmp_path, "sign", "b", "--key", "a"), "expected a terminal to ask at")
    assert_refused(avcompress(tmp_path, "sign", "b", "--key", "a", "--passphrase-file", "wrong"), "got a wrong one")
    assert avcompress(tmp_path, "sign", "b", "--key", "a", "--passphrase-file", "words")[0] == 0


def test_a_passphrase_is_asked_for_at_a_terminal(whole_run: Path, tmp_path: Path) -> None:
    create_bundle(whole_run, "ort", tmp_path / "b")
    generate_key(tmp_path / "a", b"correct horse")

    master, slave = pty.openpty()
    command = [sys.executable, "-m", "avcompress", "bundle", "sign", "b", "--key", "a"]
    child = subprocess.Popen(command, cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    said = _read_until(master, b"Passphrase")
    time.sleep(0.3)  # the prompt turns the echo off after it was written
    os.write(master, b"correct horse\n")
    said += _read_until(master, b"sha256")
    assert child.wait(60) == 0
    assert b"correct horse" not in said
    assert re.search(rb"signed by [0-9a-f]{64}", said)


def _read_until(descriptor: int, mark: bytes) -> bytes:
    said = b""
    while mark not in said:
        said += os.read(descriptor, 1000)
    return said
