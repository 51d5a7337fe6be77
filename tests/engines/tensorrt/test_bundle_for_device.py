"""A bundle without an engine, made where the device is not: what the device builds from it, with which TensorRT."""

import hashlib
import json

import onnx
import pytest

from avcompress.rebuilding import rebuild_bundle
from avcompress.recipe import RtxEngine, TrtEngine
from avcompress.spec import EngineBuildError, EngineError
from engines.bundle import Trust, load_bundle, verify_bundle
from engines.machine import Machine, needs_rebuild
from engines.manifest import Gpu, read_manifest, system_name, write_manifest

UNSIGNED = Trust(allow_unsigned=True)
ORIN = Gpu(name="Orin", compute_capability="8.7", driver="CUDA 12.6")


@pytest.fixture
def planned(tmp_path, whole_bundle):
    """Bundles by target, with the two quantized convolutions and no engine."""

    def make(target, engine=None, ranges=None):
        source, folder = whole_bundle("ort"), tmp_path / "planned"
        folder.mkdir()
        (folder / "model.onnx").write_bytes((source / "model.onnx").read_bytes())
        if ranges:
            (folder / "ranges.json").write_text(json.dumps(ranges))
        changes = {"engine": engine or TrtEngine(backend="trt", workspace_mb=256), "target": target, "versions": {}}
        write_manifest(folder, read_manifest(source).model_copy(update=changes))
        return folder

    return make


@pytest.fixture
def device(tensorrt, in_process, monkeypatch):
    """Be an Orin with a version of TensorRT."""
    monkeypatch.setattr("avcompress.rebuilding.building_gpu", lambda _: ORIN)
    return tensorrt


@pytest.mark.parametrize(
    ("target", "version", "dialect", "flags"),
    [
        ("drive-orin@drive-os-6.0.9", "8.6.12", "weak", ["INT8"]),
        ("orin-agx@jetpack-6.2", "10.3.0", "strong", []),
        ("orin-agx@jetpack-7.2.2", "11.4.1", "strong", []),
    ],
)
def test_a_device_builds_its_engine_in_the_dialect_of_its_target(
    planned, device, tmp_path, target, version, dialect, flags
):
    folder = planned(target)
    device(version)

    found = rebuild_bundle(folder, UNSIGNED, tmp_path / "here")

    new = tmp_path / "here"
    asked = json.loads((new / "engine" / "model.engine").read_bytes())
    assert (asked["flags"], asked["workspace"]) == (flags, 256 << 20)
    manifest = verify_bundle(new, UNSIGNED).manifest
    assert manifest == found.manifest
    assert (manifest.dialect, manifest.flags) == (dialect, tuple(flag.lower() for flag in flags))
    assert (manifest.gpu, manifest.versions["tensorrt"]) == (ORIN, version)
    assert manifest.rebuilt_from == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert (new / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    # What the builder was given, beside the engine.
    settings = json.loads((new / "engine" / "build.json").read_text())["engine"]
    assert (settings["dialect"], settings["workspace_mb"]) == (dialect, 256)
    # The fake says of no layer what it runs in: that never passes.
    assert [each.name for each in found.mismatches] == ["c1", "c2"]
    assert needs_rebuild(manifest, Machine({"tensorrt": version}, system_name(), ORIN)) is None


def test_another_tensorrt_than_the_target_s_is_refused_and_leaves_nothing(planned, device, tmp_path):
    folder = planned("orin-agx@jetpack-6.2")
    device("8.6.1")

    with pytest.raises(EngineBuildError, match="has no strongly typed networks"):
        rebuild_bundle(folder, UNSIGNED, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_dla_gets_the_ranges_that_the_bundle_brought(planned, device, tmp_path):
    engine = TrtEngine(backend="trt", dla=0, dla_fallback="list")
    ranges = {name: [-3.0, 3.0] for name in ("x", "a", "ar", "b", "s", "y")}
    folder = planned("orin-agx@jetpack-6.0", engine, ranges)
    device("8.6.0", dla_cores=2)

    manifest = rebuild_bundle(folder, UNSIGNED, tmp_path / "here").manifest

    assert (manifest.dialect, manifest.flags) == ("dla-implicit", ("fp16", "int8", "obey"))
    assert json.loads((tmp_path / "here" / "engine" / "model.engine").read_bytes())["dla_core"] == 0
    told = json.loads((tmp_path / "here" / "engine" / "precisions.json").read_text())["layers"]
    assert {name: told[name]["precision"] for name in ("c1", "c2")} == {"c1": "int8", "c2": "int8"}
    assert manifest.files["ranges.json"] == read_manifest(folder).files["ranges.json"]


def test_a_bundle_without_an_engine_is_not_opened(planned):
    with pytest.raises(EngineError, match=r"one for orin-agx@jetpack-6.2 whose engine is yet to be built; .*rebuild$"):
        load_bundle(planned("orin-agx@jetpack-6.2"), UNSIGNED)


@pytest.mark.rtx
def test_an_rtx_card_s_engine_is_built_here_and_every_layer_runs_as_planned(planned, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    folder = planned("rtx-4090@tensorrt-rtx-1.7", RtxEngine(backend="trt_rtx", compute_capabilities=("sm89",)))

    found = rebuild_bundle(folder, UNSIGNED, tmp_path / "here")
    rebuild_bundle(tmp_path / "here", UNSIGNED, tmp_path / "again")

    assert found.mismatches == ()
    assert (found.manifest.dialect, found.manifest.gpu) == ("strong", None)
    for name in ("engine/model.engine", "engine/build.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    precisions = json.loads((tmp_path / "here" / "engine" / "layers.json").read_text())["precisions"]
    assert precisions == {"c1": "int8", "c2": "int8"}
    assert onnx.load(tmp_path / "here" / "model.onnx").graph.node
