import gc
import typing
import weakref

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, version_converter
from onnx.reference import ReferenceEvaluator

from avcompress.recipe import OrtEngine, OrtProvider
from avcompress.spec import EngineBuildError, EngineError, MissingError
from engines.ort import CPU, build_ort, open_ort


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


def test_a_provider_that_this_build_lacks_is_an_error_that_names_those_that_are_there(saved):
    with pytest.raises(
        MissingError, match=r"expected one of .*CPUExecutionProvider.*, got TpuExecutionProvider; install"
    ):
        open_ort(saved, providers=("TpuExecutionProvider",))


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", OrtProvider(name="CUDAExecutionProvider")])
def test_a_provider_that_onnx_runtime_quietly_leaves_out_is_an_error(saved, monkeypatch, provider):
    # Without CUDA's libraries, onnxruntime-gpu makes a session on the CPU and says so on stderr only.
    whole = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, **_: whole(path, options, providers=[CPU])
    )

    with pytest.raises(MissingError, match="expected CUDAExecutionProvider to load, got only CPUExecutionProvider"):
        open_ort(saved, providers=(provider, CPU))


def test_names_and_options_reach_onnx_runtime_in_order_without_its_own_fallback(saved, monkeypatch):
    asked = {}

    class Session:
        def __init__(self, _, options, **arguments):
            asked.update(arguments, threads=options.intra_op_num_threads)

        def disable_fallback(self):
            asked["disabled"] = True

        def get_providers(self):
            return ["CUDAExecutionProvider", CPU]

        def get_inputs(self):
            return []

        def get_provider_graph_assignment_info(self):
            return []

        get_outputs = get_inputs

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    open_ort(saved, threads=3, providers=(OrtProvider(name="CUDAExecutionProvider", options={"device_id": 1}), CPU))

    assert asked == {
        "providers": [("CUDAExecutionProvider", {"device_id": 1}), (CPU, {})],
        "enable_fallback": 0,
        "disabled": True,
        "threads": 3,
    }


class OpenedElsewhere:
    nodes_by_provider: typing.ClassVar = {"CUDAExecutionProvider": 2, CPU: 1}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_another_provider_gets_the_network_as_it_is(tmp_path, network, monkeypatch):
    # On the CPU alone its FP16 operators would be computed in FP32.
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="h", to=onnx.TensorProto.FLOAT16),
        helper.make_node("Relu", ["h"], ["r"], name="r"),
        helper.make_node("Cast", ["r"], ["y"], name="y", to=onnx.TensorProto.FLOAT),
    ]
    path, folder = tmp_path / "net.onnx", tmp_path / "engine"
    onnx.save(network(nodes, {"x": (1, 4)}, {"y": (1, 4)}, {}), path)
    folder.mkdir()
    monkeypatch.setattr("engines.ort.open_ort", lambda *_: OpenedElsewhere())

    built = build_ort(path, folder, OrtEngine(backend="ort", providers=("CUDAExecutionProvider", CPU), optimize=True))

    assert (folder / "model.onnx").read_bytes() == path.read_bytes()
    assert built.note == (
        "2 operators on CUDAExecutionProvider, 1 operators on CPUExecutionProvider; graph optimizations on"
    )


def test_a_provider_that_is_loaded_but_takes_no_operator_is_an_error(saved, monkeypatch):
    # OpenVINO's provider does so for a device_type that the machine lacks.
    whole = onnxruntime.InferenceSession

    class Session(whole):
        def __init__(self, path, options, **_):
            whole.__init__(self, path, options, providers=[CPU])

        def get_providers(self):
            return ["OpenVINOExecutionProvider", CPU]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider", CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)

    with pytest.raises(EngineError, match=r"expected OpenVINOExecutionProvider to take operators, got all \d+ on CPU"):
        open_ort(saved, providers=("OpenVINOExecutionProvider",))


def test_a_session_tells_how_many_operators_each_provider_has(saved):
    with open_ort(saved) as session:
        assert session.nodes_by_provider == {CPU: len(onnx.load(saved).graph.node)}


def test_a_failed_run_leaves_the_session_usable(tmp_path, network):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], name="r")]
    model = network(nodes, {"x": ("n", 4)}, {"y": (2, 2)}, {"shape": np.int64([2, 2])})
    onnx.save(model, tmp_path / "net.onnx")
    good, bad = {"x": np.ones((1, 4), np.float32)}, {"x": np.ones((3, 4), np.float32)}

    with open_ort(tmp_path / "net.onnx") as session:
        for _ in range(3):
            with pytest.raises(EngineError, match="expected a run, got"):
                session.run(bad)
            assert session.run(good)["y"].tolist() == [[1, 1], [1, 1]]


def test_closing_gives_the_network_back_at_once(saved, x):
    session = open_ort(saved)
    session.run({"x": x})
    alive = weakref.ref(session._session)
    gc.disable()
    try:
        session.close()
        session.close()
        assert alive() is None
    finally:
        gc.enable()


def test_the_reference_is_the_cpu_with_optimizations_off_however_many_threads():
    assert OrtEngine(backend="ort").is_reference
    assert OrtEngine(backend="ort", threads=2).is_reference
    assert not OrtEngine(backend="ort", optimize=True).is_reference
    assert not OrtEngine(backend="ort", providers=("CUDAExecutionProvider",)).is_reference
