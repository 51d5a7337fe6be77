"""engines.dialects.weak: the numbers of the source, in the form that the parsers of TensorRT 8.5 and 8.6 take."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, numpy_helper

from avcompress.spec import ModelError, QuantParams, TensorRange
from engines.dialects import DialectSettings, express
from engines.dialects.weak import OPERATORS
from engines.onnx_graph import initializers
from engines.opset import opset_of
from engines.qdq import insert_qdq, quantize_array

RNG = np.random.default_rng(8)
X = RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)
W = {name: RNG.standard_normal((4, 4, 3, 3)).astype(np.float32) / 4 for name in "uvw"}
BODY = "a = Conv<pads=[1,1,1,1]>(x, u) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, v) d = Relu(c) y = Conv(d, w)"


def weak(model, **settings):
    return express(model, DialectSettings(**{"dialect": "weak", "newest_opset": 17} | settings))


def kinds(model):
    return [node.op_type for node in model.graph.node]


@pytest.fixture
def model(net, with_scales):
    return with_scales(net(BODY, W), {"x": 0.03, "b": 0.02})


def test_the_numbers_are_those_of_the_source(model, ort):
    found = weak(model)

    assert np.array_equal(ort(found.model, X)[0], ort(model, X)[0])
    assert found.flags == ("fp16", "int8")
    assert found.precisions == {"Conv_0": "int8", "Conv_2": "int8", "Conv_4": "fp16"}
    assert {t.data_type for t in found.model.graph.initializer} == {TensorProto.FLOAT, TensorProto.INT8}


def test_weights_are_float_with_q_and_dq(model):
    found = weak(model).model

    constants = initializers(found)
    makers = {node.output[0]: node for node in found.graph.node}
    for conv in [node for node in found.graph.node if node.name in {"Conv_0", "Conv_2"}]:
        dequantize = makers[conv.input[1]]
        quantize = makers[dequantize.input[0]]
        assert (quantize.op_type, dequantize.op_type) == ("QuantizeLinear", "DequantizeLinear")
        assert constants[quantize.input[0]].data_type == TensorProto.FLOAT
        assert list(quantize.input[1:]) == list(dequantize.input[1:])
        assert [a.i for a in quantize.attribute] == [a.i for a in dequantize.attribute] == [0]
    assert all(len(n.input) == 3 for n in found.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"})


@given(
    stored=hnp.arrays(np.int8, (3, 17)),
    scale=st.lists(st.floats(2**-100, 2**100, width=32), min_size=3, max_size=3),
)
def test_quantizing_dequantized_weights_gives_the_integers_back(stored, scale):
    params = QuantParams(tuple(scale), (0, 0, 0), "int8", 0)
    real = stored.astype(np.float32) * np.float32(scale)[:, None]

    assert np.array_equal(quantize_array(real, params), stored)


def test_a_missing_zero_point_is_written_out(net, ort):
    body = "d = DequantizeLinear<axis=0>(q, s) a = QuantizeLinear(x, t, z) b = DequantizeLinear(a, t, z) y = Conv(b, d)"
    stored = RNG.integers(-127, 128, (4, 4, 1, 1)).astype(np.int8)
    model = net(body, {"q": stored, "s": np.float32([0.1, 0.2, 0.3, 0.4]), "t": np.float32(0.05), "z": np.int8(0)})

    found = weak(model).model

    assert all(len(n.input) == 3 for n in found.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"})
    assert np.array_equal(ort(found, X)[0], ort(model, X)[0])


@pytest.mark.parametrize("opset", [13, 17, 18, 20, 21, 22, 23])
def test_the_opset_is_17_at_most(net, with_scales, ort, opset):
    model = with_scales(net(BODY, W, opset=opset), {"x": 0.03, "b": 0.02})

    found = weak(model)

    assert opset_of(found.model) == min(opset, 17)
    assert np.array_equal(ort(found.model, X)[0], ort(model, X)[0])


def test_operators_that_tensorrt_8_5_lacks_are_written_by_others(net, ort):
    body = "c = Conv<pads=[1,1,1,1]>(x, w) n = LayerNormalization(c, s, b) y = Conv(n, v)"
    numbers = {"s": RNG.standard_normal(8).astype(np.float32), "b": RNG.standard_normal(8).astype(np.float32)}
    model = net(body, {"w": W["w"], "v": W["v"]} | numbers)

    found = weak(model)

    assert set(kinds(found.model)) <= OPERATORS
    assert np.allclose(ort(found.model, X)[0], ort(model, X)[0], atol=1e-4)
    inside = {name: kind for name, kind in found.precisions.items() if name.startswith("LayerNormalization_1/")}
    assert len(inside) == len(kinds(found.model)) - 2
    assert set(inside.values()) == {"fp32"}
    assert "obey" in found.flags
    assert "LayerNormalization_1 is written by older operators" in found.notes


def test_an_operator_without_an_older_form_is_named(net):
    model = net('y = BitShift<direction="LEFT">(k, k) z = Relu(x)', {"k": np.uint8([1])}, outputs=("z",))

    with pytest.raises(ModelError, match=r"node 'BitShift_0' \(BitShift\): expected an operator that TensorRT 8.5"):
        weak(model)


def test_layers_that_shall_stay_fp32_are_named_for_the_builder(model):
    found = weak(model, keep_float={"Conv_4": "asked for"}, ranges={"c": TensorRange((0.0,), (60000.0,))})

    assert found.flags == ("fp16", "int8", "obey")
    assert found.precisions == {"Conv_0": "int8", "Conv_2": "int8", "Conv_4": "fp32", "Relu_3": "fp32"}
    assert "Conv_4 stays FP32: asked for" in found.notes


def test_without_fp16_there_is_no_flag_for_it(model, net):
    assert weak(model, float_type="fp32").flags == ("int8",)
    assert weak(net(BODY, W)).flags == ("fp16",)
    assert weak(net(BODY, W), float_type="fp32").flags == ()
    with pytest.raises(ModelError, match="TensorRT 8 has no bf16"):
        weak(model, float_type="bf16")


def test_a_network_in_fp16_is_widened(model, ort):
    half = express(model, DialectSettings(dialect="strong", newest_opset=23)).model

    found = weak(half)

    kinds = {t.data_type for t in found.model.graph.initializer}
    assert kinds == {TensorProto.FLOAT, TensorProto.INT8}
    assert any("FP16 and BF16 are FP32" in note for note in found.notes)
    assert opset_of(found.model) == 17
    assert np.allclose(ort(found.model, X)[0], ort(model, X)[0], atol=0.02)


def test_weights_beside_a_float_input_become_float(net, ort):
    model = net(BODY, W, opset=21)
    amax = float(np.abs(W["w"]).max())
    lone = {"w": QuantParams((amax / 7,), (0,), "int4"), "u": QuantParams((0.01,), (0,))}
    model = insert_qdq(model, [("Conv_4", 1), ("Conv_0", 1)], lone)

    found = weak(model)

    assert "QuantizeLinear" not in kinds(found.model)
    assert "DequantizeLinear" not in kinds(found.model)
    assert np.array_equal(ort(found.model, X)[0], ort(model, X)[0])
    assert "the weights of 2 float layers are stored in float" in found.notes
    assert numpy_helper.to_array(initializers(model)["w_quantized"]).dtype == ml_dtypes.int4


def test_fp8_is_refused(net):
    params = {"x": QuantParams((0.05,), (0,), "float8e4m3fn"), "u": QuantParams((0.05,), (0,), "float8e4m3fn")}
    model = insert_qdq(net(BODY, W, opset=19), [("Conv_0", 0), ("Conv_0", 1)], params)

    with pytest.raises(ModelError, match="TensorRT 8 has no FP8; quantize to int8"):
        weak(model)
