"""engines.dialects.strong: what stays FP32 and why, and that what comes out is typed, valid and near its source."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from avcompress.spec import ModelError, QuantParams, TensorRange
from engines.dialects import DialectSettings, express
from engines.dialects.float_range import outside_fp16, seen_ranges
from engines.opset import opset_of
from engines.qdq import insert_qdq

RNG = np.random.default_rng(7)
X = RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)
W = {name: RNG.standard_normal((4, 4, 3, 3)).astype(np.float32) / 4 for name in "uvw"}
BODY = "a = Conv<pads=[1,1,1,1]>(x, u) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, v) d = Relu(c) y = Conv(d, w)"


def strong(model, **settings):
    return express(model, DialectSettings(**{"dialect": "strong", "newest_opset": 23} | settings))


def types(model):
    graph = model.graph
    found = {t.name: t.data_type for t in graph.initializer}
    values = (*graph.input, *graph.output, *graph.value_info)
    return found | {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.fixture
def model(net, with_scales):
    return with_scales(net(BODY, W), {"x": 0.03, "b": 0.02})


def test_float_becomes_fp16_and_quantized_layers_stay_int8(model, ort):
    found = strong(model)

    assert found.precisions == {"Conv_0": "int8", "Conv_2": "int8", "Conv_4": "fp16"}
    assert found.flags == ()
    assert dict(found.files) == {}
    assert opset_of(found.model) == 19
    known = types(found.model)
    assert known["x"] == known["y"] == TensorProto.FLOAT
    assert known["d"] == TensorProto.FLOAT16
    assert np.allclose(ort(found.model, X)[0], ort(model, X)[0], atol=0.02)


def test_fp32_changes_nothing(model, ort):
    found = strong(model, float_type="fp32")

    assert set(found.precisions.values()) == {"int8", "fp32"}
    assert opset_of(found.model) == opset_of(model)
    assert np.array_equal(ort(found.model, X)[0], ort(model, X)[0])


def test_bf16_needs_opset_22(model):
    assert opset_of(strong(model, float_type="bf16").model) == 22
    with pytest.raises(ModelError, match="expected opset 21 at most, bf16 with Q/DQ needs opset 22"):
        strong(model, float_type="bf16", newest_opset=21)


def test_equal_inputs_give_equal_bytes(model):
    assert strong(model).model.SerializeToString() == strong(model).model.SerializeToString()


@pytest.mark.parametrize(
    ("seen", "stays"),
    [
        (TensorRange((-10.0,), (32000.0,)), False),
        (TensorRange((-10.0,), (33000.0,)), True),
        (TensorRange((-70000.0,), (0.0,)), True),
        (TensorRange((0.0,), (6e-5,)), True),
        (TensorRange((0.0,), (7e-5,)), False),
        (TensorRange((0.0,), (0.0,)), False),
    ],
)
def test_a_tensor_near_the_end_of_fp16_keeps_its_nodes_in_fp32(model, seen, stays):
    found = strong(model, ranges={"d": seen})

    assert (types(found.model)["d"] == TensorProto.FLOAT) is stays
    assert (found.precisions["Conv_4"] == "fp32") is stays
    assert any("stays FP32: tensor 'd'" in note and "Conv_4" in note for note in found.notes) is stays


def test_what_overflows_fp16_is_saved_by_the_range_check(net, ort):
    model = net("a = Conv(x, w) b = Relu(a) y = Conv(b, v)", {"w": np.full((4, 4, 1, 1), 3e4, np.float32), "v": W["v"]})
    x = np.full((1, 4, 8, 8), 1, np.float32)
    reach = float(np.abs(ort(model, x, ["y"])[0]).max())

    lost = strong(model)
    kept = strong(model, ranges={"a": TensorRange((0.0,), (1.2e5,)), "b": TensorRange((0.0,), (1.2e5,))})

    assert not np.isfinite(ort(lost.model, x)[0]).all()
    assert np.allclose(ort(kept.model, x)[0], ort(model, x)[0], atol=1e-3 * reach)


def test_a_grid_tells_a_range_too(net, with_scales):
    model = with_scales(net(BODY, W), {"x": 0.03, "b": 300.0})

    assert seen_ranges(model, {})["b"] == 300 * 128
    assert set(outside_fp16(model, seen_ranges(model, {}))) >= {"Relu_1", "Conv_2"}
    assert types(strong(model).model)["b"] == TensorProto.FLOAT


def test_scales_too_fine_for_fp16_keep_their_layer_in_fp32(net, with_scales):
    model = with_scales(net(BODY, W), {"x": 0.03, "b": 5e-7})

    found = strong(model)

    assert any(note.startswith("Conv_2 stays FP32") and "too fine for the format" in note for note in found.notes)
    assert found.precisions["Conv_2"] == "int8"
    assert types(found.model)["c"] == TensorProto.FLOAT


def test_named_nodes_stay_fp32(model):
    found = strong(model, keep_float={"Conv_4": "asked for"})

    assert found.precisions["Conv_4"] == "fp32"
    assert "Conv_4 stays FP32: asked for" in found.notes


def test_a_newer_opset_is_written_as_the_parser_reads_it(net, ort):
    body = "a = ReduceMean<keepdims=1>(x, i) b = Sub(x, a) c = Conv(b, w) g = Gelu(c) y = Conv(g, v)"
    model = net(body, {"i": np.int64([2, 3]), "w": W["w"], "v": W["v"]}, opset=23)

    found = strong(model, float_type="fp32", newest_opset=19)

    assert opset_of(found.model) == 19
    assert "opset 23 is written as opset 19" in found.notes
    assert np.allclose(ort(found.model, X)[0], ort(model, X)[0], atol=1e-4)


@pytest.mark.parametrize("opset", [11, 13, 17, 19, 21, 23])
def test_every_opset_is_expressed(net, with_scales, ort, opset):
    model = net(BODY, W, opset=opset)
    if opset >= 13:
        model = with_scales(model, {"x": 0.03, "b": 0.02})

    found = strong(model)

    assert np.allclose(ort(found.model, X)[0], ort(model, X)[0], atol=0.02)


def test_a_network_that_is_fp16_already_stays_so(model, ort):
    half = strong(model).model

    again = strong(half)

    assert again.precisions == {"Conv_0": "int8", "Conv_2": "int8", "Conv_4": "fp16"}
    assert np.array_equal(ort(again.model, X)[0], ort(half, X)[0])


def test_a_dynamic_batch_stays_dynamic(model):
    for value in (model.graph.input[0], *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    found = strong(model)

    assert found.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert found.precisions["Conv_0"] == "int8"


def test_uint8_is_refused_with_the_node_and_the_remedy(net):
    model = insert_qdq(net(BODY, W), [("Conv_0", 0)], {"x": QuantParams((0.05,), (0,), "uint8")})

    with pytest.raises(ModelError, match=r"TensorRT 11 takes, got x_QuantizeLinear: quantized to uint8.*lint --fix"):
        strong(model)


def test_zero_points_are_refused(net):
    model = insert_qdq(net(BODY, W), [("Conv_0", 0)], {"x": QuantParams((0.05,), (3,), "int8")})

    with pytest.raises(ModelError, match="int8 with zero point 3"):
        strong(model)


def test_integer_biases_of_other_tools_become_float(net, with_scales, ort):
    model = with_scales(
        net("a = Conv(x, u, b) y = Relu(a)", {"u": W["u"], "b": RNG.standard_normal(4, np.float32)}), {"x": 0.03}
    )
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    integers, scale = np.int32([1000, -2000, 3, 40000]), np.float32(1e-4)
    for name, value in (("bi", integers), ("bs", scale)):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    node = model.graph.node.add(op_type="DequantizeLinear", name="bias_dq", input=["bi", "bs"], output=["bd"])
    model.graph.node.insert(0, node)
    del model.graph.node[-1]
    conv.input[2] = "bd"

    found = strong(model, float_type="fp32")

    assert "bias_dq: the bias is stored in float" in found.notes
    assert np.array_equal(ort(found.model, X)[0], ort(model, X)[0])


def test_weights_that_another_tool_quantizes_in_the_graph_are_stored_as_integers(model, ort):
    """As NVIDIA's ModelOpt and pytorch-quantization leave them; their Q would stay FP32, and so would all beside it."""
    other = express(model, DialectSettings(dialect="weak", newest_opset=17)).model

    found = strong(other)

    assert found.precisions == strong(model).precisions
    assert [n.op_type for n in found.model.graph.node].count("QuantizeLinear") == 2
    assert types(found.model)["b"] == TensorProto.FLOAT16
    assert np.array_equal(ort(strong(other, float_type="fp32").model, X)[0], ort(model, X)[0])


def test_equal_names_of_nodes_become_unique(model):
    for node in model.graph.node:
        node.name = "same" if node.op_type == "Conv" else node.name

    found = strong(model)

    assert list(found.precisions) == ["same", "same_1", "same_2"]


def test_weights_in_another_file_must_be_read_first(model):
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL

    with pytest.raises(ModelError, match="expected its weights in memory"):
        strong(model)
