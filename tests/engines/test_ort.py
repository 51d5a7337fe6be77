import numpy as np
import onnx
import pytest
from onnx import helper, version_converter
from onnx.reference import ReferenceEvaluator

from avcompress.spec import EngineBuildError, EngineError
from engines.ort import build_ort, open_ort


@pytest.fixture
def saved(tmp_path, two_convs, quantize):
    path = tmp_path / "net.onnx"
    onnx.save(quantize(two_convs, ["c1", "c2"]), path)
    return path


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(0, 1, (1, 16, 16, 16)).astype(np.float32)


def test_it_computes_what_onnx_defines(saved, x):
    with open_ort(saved, threads=1) as session:
        y = session.run({"x": x})["y"]

    reference = ReferenceEvaluator(version_converter.convert_version(onnx.load(saved), 19))
    (expected,) = reference.run(None, {"x": x})
    # A product of two int8 values that lands on a rounding tie may fall to either side: one step of 0.05 through c2.
    assert np.abs(y - expected).max() < 0.05
    assert np.abs(y - expected).mean() < 1e-4


def test_it_says_what_goes_in_and_out(saved):
    with open_ort(saved, optimize=True) as session:
        assert session.inputs == {"x": (1, 16, 16, 16)}
        assert session.outputs == ("y",)


def test_the_next_run_leaves_earlier_results_alone(saved, x):
    with open_ort(saved, threads=1) as session:
        first = session.run({"x": x})["y"]
        kept = first.copy()
        session.run({"x": -x})

    assert np.array_equal(first, kept)


def test_a_wrong_shape_is_our_error_not_the_runtimes(saved):
    with open_ort(saved) as session, pytest.raises(EngineError, match="expected float32 1x16x16x16, got float32 1x3x8"):
        session.run({"x": np.zeros((1, 3, 8), np.float32)})


def test_a_closed_session_does_not_run(saved, x):
    session = open_ort(saved)
    session.close()

    with pytest.raises(EngineError, match="closed"):
        session.run({"x": x})


def test_a_file_that_is_no_network_is_one_line_and_nothing_is_printed(tmp_path, capfd):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"garbage")

    with pytest.raises(EngineError, match="expected a network that ONNX Runtime can load") as caught:
        open_ort(path)

    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_fails_while_it_runs_is_one_line(tmp_path, network, capfd):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    model = network(nodes, {"x": (1, 4)}, {"y": (3, 1)}, {"shape": np.int64([3, 1])})
    onnx.save(model, tmp_path / "net.onnx")

    with open_ort(tmp_path / "net.onnx") as session, pytest.raises(EngineError, match="expected a run, got") as caught:
        session.run({"x": np.zeros((1, 4), np.float32)})

    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_build_is_the_network_itself(saved, tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()

    built = build_ort(saved, folder)

    assert (folder / "model.onnx").read_bytes() == saved.read_bytes()
    assert built.files == ("model.onnx",)
    assert built.size_bytes == saved.stat().st_size
    assert built.precisions is None
    assert built.runs_here


def test_an_operator_that_it_lacks_fails_the_build(tmp_path, network):
    nodes = [helper.make_node("Mystery", ["x"], ["y"], name="m", domain="custom")]
    model = network(nodes, {"x": (1, 4)}, {"y": (1, 4)}, {})
    model.opset_import.append(helper.make_opsetid("custom", 1))
    onnx.save(model, tmp_path / "net.onnx")

    folder = tmp_path / "engine"
    folder.mkdir()

    with pytest.raises(EngineBuildError, match="Mystery") as caught:
        build_ort(tmp_path / "net.onnx", folder)

    assert caught.value.stage == "load"
