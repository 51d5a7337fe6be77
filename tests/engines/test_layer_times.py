"""engines.layer_times: steps become ONNX nodes, sums add up, and each runtime's own tale is read."""

import json
import signal
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.recipe import OpenVinoEngine, OrtEngine
from avcompress.spec import EngineError
from engines.build import build_engine
from engines.layer_map import BuilderLayer, layers_json
from engines.layer_map.file import read_layers
from engines.layer_times import Kernel, Timing, by_layer
from engines.layer_times.measure import time_layers
from engines.layer_times.ort import parse_profile

QUICK = Timing(warmup=2, runs=10)


def test_a_fused_step_counts_for_its_weighted_node_and_names_the_others():
    kernels = (
        Kernel("reorder", (0.1, 0.3)),
        Kernel("conv1", (2.0, 4.0), "Convolution", "u8", ("q1", "conv1", "relu1")),
        Kernel("conv1/tail", (0.5, 0.5), "Eltwise", "f32", ("conv1", "add1")),
        Kernel("pool", (1.0, 1.0), "Pooling", "f32", ("pool1", "flatten1")),
    )

    found = by_layer(kernels, {"conv1"}, total_ms=6.0, runs=2)

    reorder, conv, pool = found.layers
    assert (reorder.layer, reorder.own, reorder.mean_ms) == ("reorder", False, pytest.approx(0.2))
    assert (conv.layer, conv.own, conv.fused) == ("conv1", True, ("q1", "relu1", "add1"))
    assert (conv.mean_ms, conv.median_ms, conv.share) == (3.5, 3.5, pytest.approx(3.5 / 6))
    assert (conv.kind, conv.precision) == ("Convolution", "u8")
    assert (pool.layer, pool.fused) == ("flatten1", ("pool1",))
    assert found.remainder_ms == pytest.approx(6.0 - 0.2 - 3.5 - 1.0)


@given(st.lists(st.lists(st.floats(0, 100), min_size=3, max_size=3), min_size=1, max_size=6), st.integers(1, 3))
def test_layers_and_the_remainder_are_the_whole(samples, nodes):
    kernels = [Kernel(f"k{i}", tuple(taken), nodes=(f"n{i % nodes}",)) for i, taken in enumerate(samples)]

    found = by_layer(kernels, (), 50.0, 3)

    assert sum(layer.mean_ms for layer in found.layers) + found.remainder_ms == pytest.approx(50)
    assert sum(layer.share for layer in found.layers) * 50 == pytest.approx(sum(map(sum, samples)) / 3)


def test_nothing_told_is_an_error():
    with pytest.raises(EngineError, match="expected the runtime to tell its layers' times, got none"):
        by_layer((), (), 1.0, 1)


@pytest.fixture(scope="module")
def built(tmp_path_factory, two_convs, quantize):
    """A folder with net.onnx, which is quantized, and an engine for each backend."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "net.onnx").write_bytes(quantize(two_convs, ["c1", "c2"]).SerializeToString())
    for engine in (OpenVinoEngine(backend="openvino"), OrtEngine(backend="ort")):
        build_engine(folder / "net.onnx", folder / engine.backend, engine)
    return folder


@pytest.mark.parametrize(
    "engine",
    [
        OpenVinoEngine(backend="openvino", threads=1),
        OrtEngine(backend="ort", threads=1),
        OrtEngine(backend="ort", threads=1, optimize=True),
    ],
    ids=["openvino", "ort", "ort optimized"],
)
def test_the_convolutions_of_an_engine_have_times(built, engine):
    inputs = {"x": np.random.default_rng(0).normal(0, 1, (1, 16, 16, 16)).astype(np.float32)}

    found = time_layers(built / engine.backend, engine, built / "net.onnx", inputs, QUICK)

    layers = {layer.layer: layer for layer in found.layers}
    assert {"c1", "c2"} <= set(layers)
    assert all(layers[name].own and layers[name].median_ms > 0 for name in ("c1", "c2"))
    assert 0 < sum(layer.mean_ms for layer in found.layers) < found.total_ms * 1.2
    assert found.runs == 10
    named = [layer.layer for layer in found.layers] + [node for layer in found.layers for node in layer.fused]
    assert {"c1", "c2"} <= set(named)
    assert len(layers) == len(found.layers)


def test_onnx_runtime_without_optimizations_tells_every_node(built):
    engine = OrtEngine(backend="ort", threads=1)
    inputs = {"x": np.zeros((1, 16, 16, 16), np.float32)}

    found = time_layers(built / "ort", engine, built / "net.onnx", inputs, QUICK)

    assert all(layer.own for layer in found.layers)
    assert {"c1", "r1", "c2", "add", "r2"} <= {layer.layer for layer in found.layers}
    assert next(layer for layer in found.layers if layer.layer == "c1").precision == "float"


def test_what_openvino_fuses_is_named(two_convs, tmp_path):
    (tmp_path / "net.onnx").write_bytes(two_convs.SerializeToString())
    engine = OpenVinoEngine(backend="openvino", threads=1)
    build_engine(tmp_path / "net.onnx", tmp_path / "engine", engine)
    inputs = {"x": np.zeros((1, 16, 16, 16), np.float32)}

    found = time_layers(tmp_path / "engine", engine, tmp_path / "net.onnx", inputs, QUICK)

    fused = {layer.layer: layer.fused for layer in found.layers if layer.own}
    assert fused["c1"] == ("r1",)
    assert set(fused["c2"]) == {"add", "r2"}


def test_ctrl_c_works_after_openvino_was_measured(built):
    engine = OpenVinoEngine(backend="openvino", threads=1)
    inputs = {"x": np.zeros((1, 16, 16, 16), np.float32)}
    time_layers(built / "openvino", engine, built / "net.onnx", inputs, QUICK)

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def _event(name, ts, dur, op="", **args):
    return {"name": name, "ts": ts, "dur": dur, "cat": "Node", "args": {"op_name": op, **args}}


def test_a_profile_of_onnx_runtime_is_read_run_by_run(two_convs):
    typed = {"input_type_shape": [{"int8": [1]}, {"float": [1]}]}
    events = [
        _event("session_initialization", 0, 50),
        *(
            event
            for number, conv_us in enumerate((900, 200, 400))
            for event in (
                _event("model_run", 1000 * number + 100, 950),
                _event("c1_kernel_time", 1000 * number + 110, conv_us, "QLinearConv", **typed),
                _event("a_nchwc_kernel_time", 1000 * number + 1015, 10, "Conv"),
                _event("ReorderOutput_token_3_kernel_time", 1000 * number + 1030, 5, "ReorderOutput"),
                _event("SequentialExecutor::Execute", 1000 * number + 105, 940),
            )
        ),
    ]

    found = parse_profile(json.dumps(events), two_convs, warmup=1)

    assert found[0] == Kernel("c1", (0.2, 0.4), "QLinearConv", "int8", ("c1",))
    assert found[1].nodes == ("c1",)  # named after the tensor `a`, which c1 makes
    assert found[2] == Kernel("ReorderOutput_token_3", (0.005, 0.005), "ReorderOutput", "", ())
    assert statistics.fmean(found[0].samples_ms) == pytest.approx(0.3)


@pytest.mark.parametrize("text", ["", "{}", '[{"name": "model_run"}]', "[1]"])
def test_what_is_no_profile_is_told(text, two_convs):
    with pytest.raises(EngineError, match="expected a profile of ONNX Runtime"):
        parse_profile(text, two_convs)


def test_a_layer_map_s_layers_come_back(tmp_path):
    layers = (BuilderLayer("a", "Conv", ("Int8",), (), ("Half",), ("n1", "n2"), moved_bytes=3),)
    (tmp_path / "layers.json").write_text(layers_json(layers, {"n1": "int8"}))
    (tmp_path / "bad.json").write_text('{"layers": [{"nom": 1}]}')

    assert read_layers(tmp_path / "layers.json") == layers
    with pytest.raises(EngineError, match=r"bad\.json: expected a layer map"):
        read_layers(tmp_path / "bad.json")


def test_wrong_inputs_are_told_in_one_line(built):
    for engine in (OpenVinoEngine(backend="openvino"), OrtEngine(backend="ort")):
        with pytest.raises(EngineError, match="expected"):
            time_layers(built / engine.backend, engine, built / "net.onnx", {"y": np.zeros(1, np.float32)}, QUICK)
