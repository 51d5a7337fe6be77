import errno
import importlib.util
import os

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from avcompress.recipe import OpenVinoEngine, OrtEngine, RtxEngine
from avcompress.spec import EngineBuildError, MissingError, OutputError
from engines import build
from engines.build import build_engine, open_engine, require

ORT = OrtEngine(backend="ort")
OPENVINO = OpenVinoEngine(backend="openvino", threads=1)
RTX = RtxEngine(backend="trt_rtx", compute_capabilities=("sm86",))


@pytest.fixture
def net(tmp_path, two_convs, quantize):
    onnx.save(quantize(two_convs, ["c1", "c2"]), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("engine", [ORT, OPENVINO], ids=["ort", "openvino"])
def test_what_is_built_can_be_opened(net, tmp_path, engine):
    built = build_engine(net, tmp_path / "engines" / engine.backend, engine)

    assert built.folder == tmp_path / "engines" / engine.backend
    assert sorted(built.files) == sorted(path.name for path in built.folder.iterdir())
    with open_engine(built.folder, engine) as session:
        assert session.outputs == ("y",)


@pytest.mark.rtx
def test_an_rtx_engine_is_built_here_and_opened_elsewhere(net, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    built = build_engine(net, tmp_path / "rtx", RTX)

    assert sorted(built.files) == sorted(path.name for path in built.folder.iterdir())
    with pytest.raises(MissingError, match="structure check"):
        open_engine(built.folder, RTX)


@pytest.mark.parametrize(
    ("engine", "package", "install"),
    [
        (ORT, "onnxruntime", "pip install onnxruntime"),
        (OPENVINO, "openvino", "pip install openvino"),
        (RTX, "tensorrt_rtx", r'pip install "avcompress\[rtx\]"'),
    ],
    ids=["ort", "openvino", "trt_rtx"],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, engine, package, install):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(MissingError, match=f"expected the package {package}, got nothing of that name; {install}"):
        require(engine)


def test_a_package_that_does_not_load_is_missing_too(monkeypatch):
    def broken(_):
        raise OSError("libonnxruntime.so: cannot open\nshared object file")

    monkeypatch.setattr(importlib, "import_module", broken)

    with pytest.raises(MissingError, match=r"to load, got: libonnxruntime\.so: cannot open shared"):
        require(ORT)


def test_a_package_that_is_too_old_is_missing_too(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda _: object())

    with pytest.raises(MissingError, match="got an older one; pip install openvino --upgrade"):
        require(OPENVINO)


@pytest.mark.parametrize("error", [EngineBuildError("build", "refused"), KeyboardInterrupt(), MemoryError()])
def test_a_failed_build_leaves_the_folder_as_it_was(net, tmp_path, monkeypatch, error):
    (tmp_path / "engines" / "ort").mkdir(parents=True)
    (tmp_path / "engines" / "ort" / "old").write_text("old")

    def half(onnx, folder, engine):
        (folder / "model.onnx").write_text("half")
        raise error

    monkeypatch.setattr(build, "build_ort", half)

    with pytest.raises(type(error)):
        build_engine(net, tmp_path / "engines" / "ort", ORT)

    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["ort"]
    assert (tmp_path / "engines" / "ort" / "old").read_text() == "old"


def test_a_backend_that_blames_the_network_for_a_full_disk_is_corrected(net, tmp_path, monkeypatch):
    def blame(*_):
        monkeypatch.setattr(os, "fsync", full)
        raise EngineBuildError("parse", "net.onnx: expected operators that OpenVINO knows, got: iostream error")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(build, "_build", blame)
    with pytest.raises(OutputError, match="No space left"):
        build_engine(net, tmp_path / "engine", OPENVINO)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def beside(model, path):
    """The network with its weights in a file beside it."""
    whole = onnx.ModelProto.FromString(model.SerializeToString())  # saving takes the weights out
    onnx.save(whole, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("engine", [ORT, OPENVINO], ids=["ort", "openvino"])
def test_weights_that_lie_beside_the_network_come_along(two_convs, tmp_path, engine):
    x = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    network = beside(two_convs, tmp_path / "net.onnx")
    folder = build_engine(network, tmp_path / "engine", engine).folder
    network.unlink()
    (tmp_path / "weights.bin").unlink()

    with open_engine(folder, engine) as session:
        found = session.run({"x": x})["y"]

    expected = ReferenceEvaluator(two_convs).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", [ORT, OPENVINO], ids=["ort", "openvino"])
@pytest.mark.parametrize(
    ("kept", "message"), [(None, "'weights.bin' beside it, got nothing"), (100, "readable weights")]
)
def test_weights_that_are_lost_or_truncated_are_told_in_one_line(two_convs, tmp_path, engine, kept, message):
    network = beside(two_convs, tmp_path / "net.onnx")
    weights = tmp_path / "weights.bin"
    if kept is None:
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:kept])

    with pytest.raises(EngineBuildError, match=message) as caught:
        build_engine(network, tmp_path / "engine", engine)

    assert "\n" not in str(caught.value)
    assert not (tmp_path / "engine").exists()
