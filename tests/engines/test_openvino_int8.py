"""engines.openvino_int8: OpenVINO's quantized layers give the sums that they should, on whatever CPU this is."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import engines.openvino_int8
from avcompress.recipe import OpenVinoEngine
from avcompress.spec import EngineError
from engines.openvino import build_openvino, open_openvino
from engines.openvino_int8 import int8_properties

SETTINGS = OpenVinoEngine(backend="openvino", threads=1)


def quantized_conv(size, zero_point=0):
    """A convolution whose inputs and weights may reach the ends of INT8; scales of 1."""
    model = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 13]> net (float[1,32,8,8] x) => (float[1,32,8,8] y) {{
            q = QuantizeLinear (x, one, zero)  d = DequantizeLinear (q, one, zero)
            w = DequantizeLinear <axis = 0> (weight, ones, zeros)  y = Conv <pads = {[size // 2] * 4}> (d, w)
        }}""")
    rng = np.random.default_rng(0)
    values = {
        "one": np.float32(1),
        "zero": np.int8(zero_point),
        "weight": rng.choice(np.array([-127, 120, 127], np.int8), (32, 32, size, size)),
        "ones": np.ones(32, np.float32),
        "zeros": np.zeros(32, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in values.items())
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    return model


@pytest.mark.parametrize("zero_point", [0, -128])
@pytest.mark.parametrize("size", [1, 3])
def test_large_sums_do_not_saturate(tmp_path, size, zero_point):
    """By hand, in integers: what a CPU without VNNI gets wrong when it adds products of bytes in 16 bits."""
    model = quantized_conv(size, zero_point)
    onnx.save(model, tmp_path / "net.onnx")
    x = np.random.default_rng(1).integers(-128 - zero_point, 128 - zero_point, (1, 32, 8, 8)).astype(np.float32)

    built = build_openvino(tmp_path / "net.onnx", tmp_path, SETTINGS)
    with open_openvino(built.folder, SETTINGS) as session:
        got = session.run({"x": x})["y"]

    weight = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "weight")).astype(np.int64)
    padded = np.pad(x.astype(np.int64), [(0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2])
    windows = np.lib.stride_tricks.sliding_window_view(padded[0], (size, size), axis=(1, 2))
    assert np.array_equal(got[0], np.einsum("oikl,ihwkl->ohw", weight, windows).astype(np.float32))
    assert ("computed in float" in built.note) == bool(int8_properties())
    assert set(built.precisions.values()) == {"fp32" if int8_properties() else "int8"}


def test_where_no_arithmetic_is_right_it_is_one_line(monkeypatch):
    monkeypatch.setattr(engines.openvino_int8, "_EXACT", 1)

    with pytest.raises(
        EngineError,
        match=r"expected an INT8 convolution to give 1, got .*: this CPU's integer sums saturate; use the ort",
    ):
        int8_properties.__wrapped__()


def test_a_version_that_cannot_be_told_to_compute_in_float_is_one_line(monkeypatch):
    monkeypatch.setattr(engines.openvino_int8, "_EXACT", 1)
    monkeypatch.setattr(engines.openvino_int8, "_IN_FLOAT", {"NO_SUCH_PROPERTY": "NO"})

    with pytest.raises(
        EngineError, match=r"compute INT8 layers in float, since this CPU's integer sums saturate, got: .*; use the ort"
    ):
        int8_properties.__wrapped__()
