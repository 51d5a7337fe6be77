import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter

from avcompress.files import sha256_file
from avcompress.recipe import RtxEngine
from avcompress.spec import EngineBuildError, QuantParams
from engines.network import weighted_nodes
from engines.onnx_graph import infer_shapes
from engines.precision import cast_network
from engines.qdq import insert_dynamic_qdq, insert_qdq
from engines.tensorrt import child
from engines.tensorrt.build import build_rtx
from engines.tensorrt.worker import _die_with

SETTINGS = RtxEngine(backend="trt_rtx", compute_capabilities=("sm86",))


@pytest.fixture
def build(tmp_path):
    def run(model, settings=SETTINGS, folder="engine"):
        onnx.save(model, tmp_path / "net.onnx")
        (tmp_path / folder).mkdir()
        return build_rtx(tmp_path / "net.onnx", tmp_path / folder, settings)

    return run


def replaced(model, **arrays):
    """The model with other constants under the names (`__` stands for a dot)."""
    new = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in new.graph.initializer:
        array = arrays.get(tensor.name.replace(".", "__"))
        if array is not None:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return new


def assert_one_line(error, stage, *parts):
    assert error.stage == stage
    assert "\n" not in str(error)
    assert "catchCudaError" not in str(error)
    for part in parts:
        assert part in str(error)


# --- what it builds


@pytest.mark.rtx
def test_every_kind_of_layer_is_int8_where_it_was_quantized_except_transposed_convolutions(build, every_kind, quantize):
    pytest.importorskip("tensorrt_rtx")
    names = weighted_nodes(every_kind)

    built = build(quantize(every_kind, names))

    assert built.precisions == {name: "fp32" if name == "transposed" else "int8" for name in names}
    assert not built.runs_here
    assert built.versions["tensorrt_rtx"]
    assert "structure check" in built.note


@pytest.mark.rtx
def test_layers_left_float_are_float_beside_quantized_ones(build, every_kind, quantize):
    pytest.importorskip("tensorrt_rtx")
    names = weighted_nodes(every_kind)
    chosen = set(names[1::2]) - {"transposed"}

    built = build(quantize(every_kind, chosen))

    assert built.precisions == {name: "int8" if name in chosen else "fp32" for name in names}


@pytest.mark.rtx
def test_a_float_network_is_float_throughout(build, every_kind):
    pytest.importorskip("tensorrt_rtx")
    assert set(build(every_kind).precisions.values()) == {"fp32"}


@pytest.mark.rtx
def test_a_real_detector_becomes_int8_except_its_head(build, quantize, data_root):
    pytest.importorskip("tensorrt_rtx")
    model = version_converter.convert_version(onnx.load(data_root / "models" / "yolox_nano.onnx"), 13)
    names = weighted_nodes(model)
    head = set(names[-12:])

    precisions = build(quantize(model, set(names) - head)).precisions

    assert len(names) == 113
    assert precisions == {name: "fp32" if name in head else "int8" for name in names}


@pytest.mark.rtx
def test_per_channel_activations_are_found_to_run_in_float(build, two_convs, quantize):
    pytest.importorskip("tensorrt_rtx")
    model = quantize(two_convs, ["c1", "c2"])

    built = build(replaced(model, x__s=np.full(16, 0.05, np.float32), x__z=np.zeros(16, np.int8)))

    assert built.precisions == {"c1": "fp32", "c2": "int8"}


@pytest.mark.rtx
def test_equal_networks_give_equal_engines_and_a_log(build, two_convs, quantize):
    pytest.importorskip("tensorrt_rtx")
    model = quantize(two_convs, ["c1", "c2"])

    first, second = build(model, folder="a"), build(model, folder="b")

    assert sha256_file(first.folder / "model.engine") == sha256_file(second.folder / "model.engine")
    assert sorted(first.files) == sorted(path.name for path in first.folder.iterdir())
    assert first.size_bytes == (first.folder / "model.engine").stat().st_size
    assert "Layers:" in gzip.decompress((first.folder / "build.log.gz").read_bytes()).decode()
    assert json.loads((first.folder / "layers.json").read_text())["precisions"] == {"c1": "int8", "c2": "int8"}


# --- what it refuses


@pytest.mark.rtx
def test_dynamic_quantization_is_refused_with_what_to_use(build, two_convs):
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineBuildError) as caught:
        build(insert_dynamic_qdq(two_convs, [("c1", 0)]))

    assert_one_line(caught.value, "parse", "DynamicQuantizeLinear", "quantize statically: a ptq stage")


@pytest.mark.rtx
def test_a_transposed_convolution_in_bf16_is_refused_with_what_to_do(build, every_kind):
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineBuildError) as caught:
        build(cast_network(infer_shapes(every_kind), "bf16", {})[0])
    assert_one_line(caught.value, "build", "keep that node in FP32")

    build(cast_network(infer_shapes(every_kind), "bf16", {"transposed": "refused"})[0], folder="second")


@pytest.mark.rtx
@pytest.mark.parametrize("kind", ["fp8", "bf16"])
def test_formats_that_a_gpu_lacks_are_refused(tmp_path, two_convs, kind):
    pytest.importorskip("tensorrt_rtx")
    if kind == "bf16":
        model, old = cast_network(infer_shapes(two_convs), "bf16", {})[0], "sm75"
    else:
        params = QuantParams((0.01,), (0,), "float8e4m3fn")
        model, old = insert_qdq(two_convs, [("c1", 0), ("c1", 1)], {"x": params, "w1": params}), "sm86"
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "engine").mkdir()

    settings = RtxEngine(backend="trt_rtx", compute_capabilities=(old, "sm89"))
    with pytest.raises(EngineBuildError) as caught:
        build_rtx(tmp_path / "net.onnx", tmp_path / "engine", settings)

    assert_one_line(caught.value, "build", f"Cannot compile for target(s) {old}", "leave out the compute capabilities")


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"x__z": np.int8(3)}, ["node 'x.Q' (QuantizeLinear)", "zero point", "quantize symmetrically"]),
        ({"x__s": np.float32(0)}, ["node 'x.Q'", "Scale coefficients must all be positive"]),
        (
            {"c1__w__s": np.ones(5, np.float32), "c1__w__z": np.zeros(5, np.int8)},
            ["node 'c1.w.dq'", "number of scales"],
        ),
    ],
    ids=["asymmetric", "scale 0", "number of scales"],
)
def test_bad_quantization_is_refused_naming_the_node(build, two_convs, quantize, arrays, parts):
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineBuildError) as caught:
        build(replaced(quantize(two_convs, ["c1", "c2"]), **arrays))

    assert_one_line(caught.value, "parse", *parts)


@pytest.mark.rtx
def test_an_int32_bias_is_refused_without_the_line_that_misleads(build, two_convs, quantize):
    pytest.importorskip("tensorrt_rtx")
    model = quantize(two_convs, ["c1", "c2"])
    node = next(node for node in model.graph.node if node.name == "c1")
    node.input[2] = "bias"
    bias = [("bias.q", np.zeros(32, np.int32)), ("bias.s", np.float32(1))]
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in bias)
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["bias.q", "bias.s"], ["bias"], name="bias.dq"))

    with pytest.raises(EngineBuildError) as caught:
        build(model)

    assert_one_line(caught.value, "parse", "node 'bias.dq'", "Int32", "leave biases in float")


@pytest.mark.rtx
def test_nms_is_refused_when_it_is_built(build):
    pytest.importorskip("tensorrt_rtx")
    shapes = {"boxes": (1, 100, 4), "scores": (1, 3, 100)}
    limits = {"k": np.int64([10]), "iou": np.float32([0.5]), "score": np.float32([0.1])}
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", [*shapes, *limits], ["y"], name="nms")],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in limits.items()],
    )

    with pytest.raises(EngineBuildError) as caught:
        build(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))

    assert_one_line(caught.value, "build", "nms", "cut the graph before that operator")


@pytest.mark.rtx
def test_a_plugin_is_refused(build, network):
    pytest.importorskip("tensorrt_rtx")
    nodes = [helper.make_node("EfficientNMS_TRT", ["x"], ["y"], name="plugin")]

    with pytest.raises(EngineBuildError) as caught:
        build(network(nodes, {"x": (1, 4)}, {"y": (1, 4)}, {}))

    assert_one_line(caught.value, "parse", "node 'plugin' (EfficientNMS_TRT)", "replace the plugin's operator")


@pytest.mark.parametrize("explicit", [True, False], ids=["uint8 zero point", "no zero point"])
def test_uint8_is_refused_before_tensorrt_takes_it_for_int8(build, two_convs, quantize, explicit):
    model = replaced(quantize(two_convs, ["c1", "c2"]), x__z=np.uint8(0))
    for node in model.graph.node:
        if not explicit and node.name in {"x.Q", "x.DQ"}:
            del node.input[2:]

    with pytest.raises(EngineBuildError) as caught:
        build(model)

    assert_one_line(caught.value, "parse", "node 'x.Q' (QuantizeLinear)", "got uint8")


@pytest.mark.parametrize("content", [b"", b"plain text"])
def test_what_is_no_network_is_refused_before_the_compiler_accepts_it(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)

    with pytest.raises(EngineBuildError) as caught:
        build_rtx(tmp_path / "net.onnx", tmp_path, SETTINGS)

    assert_one_line(caught.value, "parse", "net.onnx")


# --- how the child may end


def use_child(monkeypatch, code):
    """Let the child run `code` with its arguments in `a` and their third, the parent's id, in `parent`."""
    boot = "import os, signal, sys, time; a = sys.argv[2:]; parent = int(a[2])\n" + textwrap.dedent(code)
    monkeypatch.setattr(child, "_BOOT", boot)


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "it was killed, out of memory perhaps"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "it crashed (SIGSEGV)"),
        ("raise RuntimeError('no such library')", "it ended with code 1: RuntimeError: no such library"),
        ("pass", "it ended with code 0"),
        (
            "open('build.log', 'w').write('[ERROR] first\\n[ERROR] [x::catchCudaError::2] 35\\n'); sys.exit(3)",
            "it ended with code 3: first",
        ),
    ],
    ids=["killed", "crashed", "raised", "silent", "logged"],
)
def test_a_child_that_dies_is_one_error(build, two_convs, monkeypatch, code, part):
    use_child(monkeypatch, code)

    with pytest.raises(EngineBuildError) as caught:
        build(two_convs)

    assert_one_line(caught.value, "build", "net.onnx", part)


def process_exists(pid):
    """Whether it runs; one that ended, and that nobody has asked how, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_that_takes_too_long_is_killed(build, two_convs, monkeypatch, tmp_path):
    use_child(monkeypatch, "open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    settings = RtxEngine(backend="trt_rtx", timeout_s=1.0)
    start = time.monotonic()

    with pytest.raises(EngineBuildError) as caught:
        build(two_convs, settings)

    assert time.monotonic() - start < 10
    assert_one_line(caught.value, "build", "expected an engine within 1 s", "raise timeout_s")
    assert not process_exists(int((tmp_path / "engine" / "pid").read_text()))


def test_ctrl_c_ends_the_child_too(build, two_convs, monkeypatch, tmp_path):
    use_child(monkeypatch, "open('pid', 'w').write(str(os.getpid())); os.kill(parent, signal.SIGINT); time.sleep(60)")

    with pytest.raises(KeyboardInterrupt):
        build(two_convs)

    assert not process_exists(int((tmp_path / "engine" / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_the_child_dies_with_a_parent_that_is_killed(tmp_path):
    child = "import os, sys, time; from engines.tensorrt.worker import _die_with; _die_with(int(sys.argv[1])); "
    child += "print(os.getpid(), flush=True); time.sleep(60)"
    parent = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())])"
    with subprocess.Popen(
        [sys.executable, "-c", parent, child], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    ) as running:
        pid = int(running.stdout.readline())
        running.send_signal(signal.SIGKILL)
        running.wait()
        deadline = time.monotonic() + 10
        while process_exists(pid) and time.monotonic() < deadline:
            time.sleep(0.02)

    assert not process_exists(pid)


def test_a_child_whose_parent_is_gone_already_does_not_start():
    code = "from engines.tensorrt.worker import _die_with; _die_with(1)"

    assert _die_with.__doc__
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
