"""engines.openvino_int8: OpenVINO's quantized layers give the sums that they should, on whatever CPU this is."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

import engines.openvino_int8
from avcompress.recipe import OpenVinoEngine
from avcompress.spec import EngineError
from engines.openvino import build_openvino, open_openvino
from engines.openvino_dialect import with_fake_quantize
from engines.openvino_int8 import FULL, HALF, int8_properties, weight_reach

SETTINGS = OpenVinoEngine(backend="openvino", threads=1)


def quantized_conv(size, zero_point=0, reach=127):
    """A convolution whose inputs reach the ends of INT8, and whose weights reach `reach`; scales of 1."""
    model = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 13]> net (float[1,32,8,8] x) => (float[1,32,8,8] y) {{
            q = QuantizeLinear (x, one, zero)  d = DequantizeLinear (q, one, zero)
            w = DequantizeLinear <axis = 0> (weight, ones, zeros)  y = Conv <pads = {[size // 2] * 4}> (d, w)
        }}""")
    rng = np.random.default_rng(0)
    values = {
        "one": np.float32(1),
        "zero": np.int8(zero_point),
        "weight": rng.choice(np.array([-reach, reach - 7, reach], np.int8), (32, 32, size, size)),
        "ones": np.ones(32, np.float32),
        "zeros": np.zeros(32, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in values.items())
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    return model


@pytest.mark.parametrize("zero_point", [0, -128])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("reach", [FULL, HALF])
def test_large_sums_do_not_saturate(tmp_path, size, zero_point, reach):
    """By hand, in integers: what a CPU without VNNI gets wrong when it adds products of bytes in 16 bits."""
    model = quantized_conv(size, zero_point, reach)
    onnx.save(model, tmp_path / "net.onnx")
    x = np.random.default_rng(1).integers(-128 - zero_point, 128 - zero_point, (1, 32, 8, 8)).astype(np.float32)

    built = build_openvino(tmp_path / "net.onnx", tmp_path, SETTINGS)
    with open_openvino(built.folder, SETTINGS) as session:
        got = session.run({"x": x})["y"]

    weight = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "weight")).astype(np.int64)
    padded = np.pad(x.astype(np.int64), [(0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2])
    windows = np.lib.stride_tricks.sliding_window_view(padded[0], (size, size), axis=(1, 2))
    assert np.array_equal(got[0], np.einsum("oikl,ihwkl->ohw", weight, windows).astype(np.float32))
    assert ("computed in float" in built.note) == bool(int8_properties(reach))
    assert set(built.precisions.values()) == {"fp32" if int8_properties(reach) else "int8"}


def test_weights_of_half_their_range_are_computed_in_integers_on_any_cpu(tmp_path):
    onnx.save(quantized_conv(3, reach=HALF), tmp_path / "net.onnx")

    assert not int8_properties(HALF)
    assert build_openvino(tmp_path / "net.onnx", tmp_path, SETTINGS).precisions == {"Conv_3": "int8"}


def test_one_weight_beyond_half_of_the_range_is_enough_to_need_all_of_it():
    import openvino

    def reach(model):
        return weight_reach(openvino.Core().read_model(with_fake_quantize(model).SerializeToString()))

    model = quantized_conv(1, reach=HALF)
    assert reach(model) == HALF
    weight = next(t for t in model.graph.initializer if t.name == "weight")
    values = numpy_helper.to_array(weight).copy()
    values[3, 4] = HALF + 1
    weight.CopyFrom(numpy_helper.from_array(values, "weight"))
    assert reach(model) == FULL


def test_a_depthwise_convolution_in_float_beside_them_changes_nothing(tmp_path):
    model = quantized_conv(3, reach=HALF)
    depthwise = helper.make_node("Conv", ["x", "kernels"], ["filtered"], name="depthwise", group=32, pads=[1] * 4)
    model.graph.node.insert(0, depthwise)
    model.graph.node[1].input[0] = "filtered"
    kernels = np.random.default_rng(1).normal(0, 1, (32, 1, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernels, "kernels"))
    onnx.save(model, tmp_path / "net.onnx")

    built = build_openvino(tmp_path / "net.onnx", tmp_path, SETTINGS).precisions
    assert built == {"depthwise": "fp32", "Conv_3": "int8"}


def test_where_the_scale_comes_first_the_weights_are_found_all_the_same():
    import openvino

    model = openvino.Core().read_model(with_fake_quantize(quantized_conv(1, reach=127)).SerializeToString())
    for op in model.get_ops():
        if op.get_type_name() == "Multiply":
            first, second = op.input_value(0), op.input_value(1)
            op.input(0).replace_source_output(second)
            op.input(1).replace_source_output(first)

    assert weight_reach(model) == FULL


def test_products_of_two_activations_may_need_the_whole_range():
    import openvino

    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]> net (float[4,4] x, float[4,4] y) => (float[4,4] z) {
            z = MatMul (x, y)
        }""")
    assert weight_reach(openvino.Core().read_model(model.SerializeToString())) == FULL


def test_where_no_arithmetic_is_right_it_is_one_line(monkeypatch):
    monkeypatch.setattr(engines.openvino_int8, "_exact", lambda _: 1)

    with pytest.raises(
        EngineError,
        match=r"expected an INT8 convolution to give 1, got .*: this CPU's integer sums saturate; use the ort",
    ):
        int8_properties.__wrapped__()


def test_a_version_that_cannot_be_told_to_compute_in_float_is_one_line(monkeypatch):
    monkeypatch.setattr(engines.openvino_int8, "_exact", lambda _: 1)
    monkeypatch.setattr(engines.openvino_int8, "_IN_FLOAT", {"NO_SUCH_PROPERTY": "NO"})

    with pytest.raises(
        EngineError, match=r"compute INT8 layers in float, since this CPU's integer sums saturate, got: .*; use the ort"
    ):
        int8_properties.__wrapped__()
