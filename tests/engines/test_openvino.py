import gc
import socket
import weakref

import numpy as np
import onnx
import pytest
from onnx import helper

from avcompress.recipe import OpenVinoEngine
from avcompress.spec import EngineBuildError, EngineError, MissingError
from engines.layer_map import BuilderLayer
from engines.network import weighted_nodes
from engines.openvino import build_openvino, open_openvino, openvino_precisions
from engines.openvino_int8 import int8_properties
from engines.ort import open_ort

SETTINGS = OpenVinoEngine(backend="openvino", threads=1)


@pytest.fixture
def build(tmp_path):
    def run(model, settings=SETTINGS):
        onnx.save(model, tmp_path / "net.onnx")
        (tmp_path / "engine").mkdir(exist_ok=True)
        return build_openvino(tmp_path / "net.onnx", tmp_path / "engine", settings)

    return run


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(0, 1, (1, 16, 16, 16)).astype(np.float32)


def test_a_float_network_computes_what_onnx_runtime_computes(build, two_convs, x, tmp_path):
    built = build(two_convs)

    with open_openvino(built.folder, SETTINGS) as session, open_ort(tmp_path / "net.onnx", True, 1) as reference:
        assert session.inputs == reference.inputs
        assert session.outputs == reference.outputs
        assert np.abs(session.run({"x": x})["y"] - reference.run({"x": x})["y"]).max() < 1e-5


def test_weights_stay_float32_in_the_file(build, two_convs):
    built = build(two_convs)

    assert (built.folder / "model.bin").stat().st_size >= 4 * (32 * 16 * 9 + 32 * 32 * 9)
    assert built.files == ("model.xml", "model.bin", "layers.json")
    assert built.size_bytes == sum((built.folder / name).stat().st_size for name in built.files[:2])


def test_every_kind_of_weighted_layer_runs_in_int8_where_it_was_quantized(build, every_kind, quantize):
    names = weighted_nodes(every_kind)
    chosen = set(names[::2])

    precisions = build(quantize(every_kind, chosen)).precisions

    # OpenVINO fuses the products of two activations into one attention operator, and names none of them.
    attention = {"scores.MatMul", "mixed.MatMul"}
    told = {name: precision for name, precision in precisions.items() if name not in attention}
    int8 = "fp32" if int8_properties() else "int8"  # CPUs without VNNI compute them in float
    assert told == {name: int8 if name in chosen else "fp32" for name in names if name not in attention}
    assert set(precisions) == set(names)


def test_the_names_that_openvino_changes_are_found_again():
    def layer(kind, precision, *nodes):
        return BuilderLayer("n", kind, (precision,), (), (), nodes)

    layers = [
        layer("Convolution", "u8", "c1/WithoutBiases", "Multiply_7"),
        layer("FullyConnected", "i8", "fc/WithoutBiases/DequantizationMultiply", "y"),
        layer("Convolution", "f32", "out_original", "out"),
        layer("Subgraph", "f32", "c1", "relu"),
        layer("Convolution", "u8", "twice"),
        layer("Convolution", "f32", "twice"),
    ]

    found = openvino_precisions(layers, ["c1", "fc", "head", "twice", "lost"], {"out": "head", "y": "last"})

    assert found == {"c1": "int8", "fc": "int8", "head": "fp32", "twice": "unknown", "lost": "unknown"}


def test_the_next_run_leaves_earlier_results_alone(build, two_convs, x):
    with open_openvino(build(two_convs).folder, SETTINGS) as session:
        first = session.run({"x": x})["y"]
        kept = first.copy()
        session.run({"x": -x})

    assert np.array_equal(first, kept)


def test_strided_and_read_only_inputs_give_the_same_result(build, two_convs, x):
    wide = np.repeat(x, 2, axis=3)[:, :, :, ::2]
    locked = x.copy()
    locked.setflags(write=False)

    with open_openvino(build(two_convs).folder, SETTINGS) as session:
        results = [session.run({"x": value})["y"] for value in (x, wide, locked)]

    assert not wide.flags.c_contiguous
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_outputs_keep_their_names_and_order(build, network):
    nodes = [
        helper.make_node("Relu", ["x"], ["second"], name="a"),
        helper.make_node("Identity", ["second"], ["first"], name="b"),
    ]
    built = build(network(nodes, {"x": (1, 4)}, {"first": (1, 4), "second": (1, 4)}, {}))

    with open_openvino(built.folder, SETTINGS) as session:
        assert session.outputs == ("first", "second")
        outputs = session.run({"x": np.float32([[1, -1, 2, 3]])})

    assert outputs["first"].tolist() == outputs["second"].tolist() == [[1, 0, 2, 3]]


def test_a_wrong_input_and_a_closed_session_are_our_errors(build, two_convs, x):
    session = open_openvino(build(two_convs).folder, SETTINGS)
    with pytest.raises(EngineError, match="input 'x': expected float32 1x16x16x16, got float64"):
        session.run({"x": x.astype(np.float64)})
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run({"x": x})


def test_a_failed_run_leaves_the_session_usable(build, two_convs, x, monkeypatch):
    with open_openvino(build(two_convs).folder, SETTINGS) as session:
        before = session.run({"x": x})["y"]
        for _ in range(3):
            with monkeypatch.context() as patch:
                patch.setattr(type(session._request), "infer", fail)
                with pytest.raises(EngineError, match="expected a run, got: Exception from src/inference: busy; build"):
                    session.run({"x": x})
            assert np.array_equal(session.run({"x": x})["y"], before)


def fail(*_, **__):
    raise RuntimeError("Exception from src/inference:\nbusy")


def test_closing_gives_the_engine_back_at_once(build, two_convs, x):
    session = open_openvino(build(two_convs).folder, SETTINGS)
    session.run({"x": x})
    alive = weakref.ref(session._request)
    gc.disable()
    try:
        session.close()
        session.close()
        assert alive() is None
    finally:
        gc.enable()


def test_an_operator_that_it_lacks_fails_the_build_in_one_line(build, network):
    nodes = [helper.make_node("Mystery", ["x"], ["y"], name="m", domain="custom")]
    model = network(nodes, {"x": (1, 4)}, {"y": (1, 4)}, {})
    model.opset_import.append(helper.make_opsetid("custom", 1))

    with pytest.raises(EngineBuildError, match="Mystery") as caught:
        build(model)

    assert caught.value.stage == "parse"
    assert "\n" not in str(caught.value)


def test_a_network_that_converts_but_does_not_load_fails_the_build_by_its_own_name(build, network, monkeypatch):
    def refuse(path, settings):
        raise EngineError(f"{path}: expected an engine that OpenVINO can load, got: no; build it again")

    monkeypatch.setattr("engines.openvino.compile_file", refuse)
    model = network([helper.make_node("Relu", ["x"], ["y"], name="r")], {"x": (1, 4)}, {"y": (1, 4)}, {})

    with pytest.raises(EngineBuildError, match=r"^load: \w+\.onnx: expected an engine that OpenVINO can load, got: no"):
        build(model)


def test_bf16_is_refused_where_the_cpu_lacks_it(build, two_convs):
    import openvino

    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has bf16")
    with pytest.raises(MissingError, match="expected a CPU with bf16"):
        build(two_convs, OpenVinoEngine(backend="openvino", threads=1, precision="bf16"))


def test_a_missing_engine_is_one_line(tmp_path):
    with pytest.raises(EngineError, match="expected an engine that OpenVINO can load") as caught:
        open_openvino(tmp_path, SETTINGS)

    assert "\n" not in str(caught.value)


def test_a_build_opens_no_connection(build, two_convs, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    assert build(two_convs).runs_here
