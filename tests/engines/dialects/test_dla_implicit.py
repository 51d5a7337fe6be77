"""engines.dialects.dla_implicit: putting Q/DQ back from the cache and the precisions gives the quantized network."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from avcompress.spec import DataError, ModelError, QuantParams, TensorRange
from engines.dialects import DialectSettings, express
from engines.dialects.calibration_cache import read_cache
from engines.dialects.implicit_reference import as_explicit
from engines.dialects.implicit_weights import implicit_params, output_axis, requantized
from engines.onnx_graph import initializers, with_outputs
from engines.qdq import dequantize_array, insert_qdq, quantize_array

RNG = np.random.default_rng(9)
X = RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)
W = {name: RNG.standard_normal((4, 4, 3, 3)).astype(np.float32) / 4 for name in "uvw"}
RELU = "a = Conv<pads=[1,1,1,1]>(x, u) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, v) d = Relu(c) y = Conv(d, w)"
SILU = "a = Conv<pads=[1,1,1,1]>(x, u) s = Sigmoid(a) b = Mul(a, s) "
SILU += "c = Conv<pads=[1,1,1,1]>(b, v) d = Relu(c) y = Conv(d, w)"


def dla(model, **settings):
    return express(model, DialectSettings(**{"dialect": "dla-implicit", "newest_opset": 17} | settings))


def scales_of(found):
    return dict(read_cache(found.files["calibration.cache"]).scales)


def simulated(found):
    return as_explicit(found.model, scales_of(found), found.precisions)


def text(found, name):
    return found.files[name].decode()


@pytest.fixture
def relu(net, with_scales):
    return with_scales(net(RELU, W), {"x": 0.03, "b": 0.02, "d": 0.04})


def test_a_network_of_relus_comes_back_bit_for_bit(relu, ort):
    found = dla(relu, ranges={"y": TensorRange((-12.7,), (9.0,))})

    assert "QuantizeLinear" not in {node.op_type for node in found.model.graph.node}
    assert set(found.precisions.values()) == {"int8"}
    # Q/DQ left the last layer's output in float; as an INT8 layer's output it is rounded to its own scale.
    rounded = dequantize_array(*_on_grid(ort(relu, X)[0], 0.1))
    assert np.array_equal(ort(simulated(found), X)[0], rounded)
    inside = [ort(with_outputs(each, ["d"]), X, ["d"])[0] for each in (relu, simulated(found))]
    assert np.array_equal(*(_on_grid(each, 0.04)[0] for each in inside))
    assert np.abs(inside[0] - inside[1]).max() > 0  # in float they are not the same: the one is rounded already


def _on_grid(values, scale):
    params = QuantParams((float(np.float32(scale)),), (0,))
    return quantize_array(values, params), params


def test_a_layer_without_a_scale_is_fp16_with_the_tensor_named(relu, ort):
    found = dla(relu)

    assert found.precisions == {
        "Conv_0": "int8",
        "Relu_1": "int8",
        "Conv_2": "int8",
        "Relu_3": "int8",
        "Conv_4": "fp16",
    }
    assert found.flags == ("fp16", "int8", "obey")
    reasons = json.loads(text(found, "precisions.json"))["layers"]
    assert reasons["Conv_4"] == {
        "precision": "fp16",
        "device": "dla",
        "reason": "tensor 'y' has no scale: no Q/DQ, no range",
    }
    assert np.allclose(ort(simulated(found), X)[0], ort(relu, X)[0], atol=0.1)


def test_the_files_say_the_same(relu):
    found = dla(relu, tensorrt="8.5.2")

    assert text(found, "calibration.cache").startswith("TRT-8502-EntropyCalibration2\nx: ")
    assert list(scales_of(found)) == ["x", "a", "b", "c", "d"]
    assert scales_of(found) == pytest.approx({"x": 0.03, "a": 0.02, "b": 0.02, "c": 0.04, "d": 0.04})
    assert text(found, "layer_precisions.txt") == "Conv_0:int8,Relu_1:int8,Conv_2:int8,Relu_3:int8,Conv_4:fp16"
    assert text(found, "layer_output_types.txt") == text(found, "layer_precisions.txt")
    tensors = json.loads(text(found, "precisions.json"))["tensors"]
    assert {name: each["from"] for name, each in tensors.items()} == {
        "x": "q/dq",
        "a": "passed on",
        "b": "q/dq",
        "c": "passed on",
        "d": "q/dq",
    }


def test_equal_inputs_give_equal_bytes(relu):
    first, second = dla(relu), dla(relu)

    assert dict(first.files) == dict(second.files)
    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_an_activation_that_commutes_not_needs_a_range(net, with_scales, ort):
    model = with_scales(net(SILU, W), {"x": 0.03, "b": 0.03})

    without = dla(model)
    given_ranges = dla(model, ranges={"a": TensorRange((-3.81,), (3.0,))})

    assert without.precisions["Conv_0"] == "fp16"
    assert given_ranges.precisions == {
        "Conv_0": "int8",
        "Sigmoid_1": "fp16",
        "Mul_2": "fp16",
        "Conv_3": "fp16",
        "Relu_4": "fp16",
        "Conv_5": "fp16",
    }
    assert "1 outputs of INT8 layers are rounded that Q/DQ left in float, as 'a'" in given_ranges.notes
    assert np.abs(ort(simulated(given_ranges), X)[0] - ort(model, X)[0]).max() < 0.05 * np.abs(ort(model, X)[0]).max()


def test_a_float_layer_of_the_plan_stays_float_though_its_tensors_have_scales(net, with_scales):
    body = "b = Relu(x) c = Conv(b, u) d = Relu(c) e = Conv(d, v) f = Relu(e) y = Conv(b, w)"
    model = insert_qdq(
        net(body, W, outputs=("y", "f")),
        [("Conv_5", 0), ("Conv_5", 1)],
        {"b": QuantParams((0.02,), (0,)), "w": QuantParams((0.01,), (0,))},
    )

    found = dla(model, ranges={name: TensorRange((-5.0,), (5.0,)) for name in "cdefy"})

    assert found.precisions["Conv_1"] == "fp16"
    assert any("Conv_1 runs in FP16: float by the plan" in note for note in found.notes)
    assert found.precisions["Conv_5"] == "int8"


def test_nodes_that_the_user_keeps_are_fp16(relu):
    found = dla(relu, keep_float={"Conv_2": "asked for"})

    assert found.precisions["Conv_2"] == "fp16"
    assert any(note.startswith("Conv_2 runs in FP16: asked for") for note in found.notes)


def test_a_concat_of_two_scales_is_fp16(net, with_scales):
    body = (
        "a = Conv(x, u) b = Relu(a) c = Conv(x, v) d = Relu(c) e = Concat<axis=1>(b, d) y = Conv(e, k) z = Conv(b, w)"
    )
    weights = W | {"k": RNG.standard_normal((4, 8, 1, 1)).astype(np.float32)}
    model = with_scales(net(body, weights, outputs=("y", "z")), {"x": 0.03, "b": 0.02, "e": 0.05})

    found = dla(model)

    layers = json.loads(text(found, "precisions.json"))["layers"]
    assert layers["Concat_4"]["reason"] == "its tensors have scales from 0.02 to 0.05, DLA takes one"


def test_what_dla_lacks_is_refused_or_listed(net, with_scales):
    model = with_scales(
        net("a = Conv(x, u) b = Relu(a) e = Exp(b) c = Conv(e, v) d = Relu(c) y = Conv(d, w)", W),
        {"x": 0.03, "d": 0.02},
    )

    with pytest.raises(
        ModelError, match=r"DLA: expected layers that it can take, got Exp_2: DLA has no Exp; .*gpu_fallback: list"
    ):
        dla(model)
    found = dla(model, gpu_fallback="list")
    assert json.loads(text(found, "precisions.json"))["layers"]["Exp_2"]["device"] == "gpu"
    assert "Exp_2 runs on the GPU: DLA has no Exp" in found.notes


def test_a_dynamic_batch_is_refused(relu):
    relu.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"

    with pytest.raises(
        ModelError, match=r"input 'x': expected a static shape, DLA has no dynamic ones, got \(-1, 4, 8, 8\)"
    ):
        dla(relu)


def test_two_scales_of_one_tensor_are_refused(net):
    body = (
        "p = QuantizeLinear(x, s, z) q = DequantizeLinear(p, s, z) "
        "r = QuantizeLinear(x, t, z) m = DequantizeLinear(r, t, z) a = Conv(q, u) b = Conv(m, v) y = Add(a, b)"
    )
    model = net(body, W | {"s": np.float32(0.1), "t": np.float32(0.2), "z": np.int8(0)})

    with pytest.raises(ModelError, match="tensor 'x': expected one scale and zero point for all its uses"):
        dla(model)


def test_scales_by_channel_are_refused(net):
    body = "q = QuantizeLinear<axis=1>(x, s, z) d = DequantizeLinear<axis=1>(q, s, z) y = Add(d, d)"
    model = net(body, {"s": np.float32([0.1, 0.2, 0.3, 0.4]), "z": np.zeros(4, np.int8)})

    with pytest.raises(ModelError, match="tensor 'x': expected int8 with one scale, got int8 with 4"):
        dla(model)


def test_names_with_commas_are_renamed(relu):
    relu.graph.node[2].name = "a,b"
    bad = next(node for node in relu.graph.node if node.op_type == "Conv")
    bad.name = "conv,1"

    found = dla(relu, keep_float={"Conv_2": "asked for"})

    assert "conv_1:int8" in text(found, "layer_precisions.txt")
    assert dla(relu, keep_float={"conv,1": "asked for"}).precisions["conv_1"] == "fp16"
    assert any("node names lost their commas" in note for note in found.notes)


def test_an_unknown_version_is_refused(relu):
    with pytest.raises(DataError, match=r"expected one as 8\.6\.1"):
        dla(relu, tensorrt="orin")


# --- weights


@given(stored=hnp.arrays(np.int8, (3, 12), elements=st.integers(-127, 127)), scale=st.floats(2**-60, 2**60, width=32))
def test_a_channel_that_uses_its_largest_level_is_quantized_to_the_same_integers(stored, scale):
    stored[:, 0] = [127, -127, 127]
    real = dequantize_array(stored, QuantParams((scale,) * 3, (0,) * 3, "int8", 0))

    assert np.array_equal(quantize_array(real, implicit_params(real, 0)), stored)


@given(stored=hnp.arrays(np.int8, (2, 3, 4)), axis=st.sampled_from([0, 1, 2]))
def test_other_channels_move_by_less_than_a_step(net, stored, axis):
    params = QuantParams((0.25,), (0,))
    real = dequantize_array(stored, params)
    own = implicit_params(real, axis)

    assert np.abs(dequantize_array(quantize_array(real, own), own) - real).max() <= 0.25 * 128 / 127 / 2 + 1e-6


def test_changed_channels_are_counted(net):
    model = net("y = Conv(x, w)", {"w": np.ones((3, 4, 1, 1), np.float32)})
    stored = np.int8([[127, 5, -3, 0], [100, 5, -3, 0], [-128, 64, 1, 0]]).reshape(3, 4, 1, 1)

    (found,) = requantized(model, {"Conv_0": (stored, QuantParams((0.5,), (0,)))})

    # 100 becomes 127 of 100/127 a step: 5 -> round(6.35) = 6 -> 4.724, -3 -> -4 -> -3.15.
    # -128 becomes -127 of 128/127: 64 -> round(63.5) = 64 -> 64.504.
    assert (found.channels, found.changed) == (3, 2)
    assert found.worst == pytest.approx(64 * 128 / 127 - 64, rel=1e-5)


def test_layers_whose_weights_change_are_noted(net, with_scales):
    coarse = QuantParams((0.05,), (0,))
    model = with_scales(net(RELU, W), {"x": 0.03, "b": 0.02, "d": 0.04}, {"u": coarse})

    found = dla(model)

    assert any("TensorRT's own weight scales change 4 channels of 1 layers" in note for note in found.notes)
    assert not any("own weight scales" in note for note in dla(with_scales(net(RELU, W), {"x": 0.03, "b": 0.02})).notes)


@pytest.mark.parametrize(
    ("body", "axis"),
    [
        ("y = Conv(x, w)", 0),
        ("y = ConvTranspose(x, w)", 1),
        ("f = Flatten(x) y = Gemm<transB=1>(f, w)", 0),
        ("f = Flatten(x) y = Gemm(f, w)", 1),
        ("f = Flatten(x) y = MatMul(f, w)", 1),
    ],
)
def test_output_channels_lie_where_each_operator_has_them(net, body, axis):
    shape = (256, 256) if "Flatten" in body else (4, 4, 1, 1)
    model = net(body, {"w": np.ones(shape, np.float32)})

    assert output_axis(model.graph.node[-1], len(shape)) == axis


def test_the_weights_handed_over_are_the_dequantized_ones(relu):
    found = dla(relu)

    stored = initializers(relu)
    conv = next(node for node in found.model.graph.node if node.name == "Conv_0")
    weight = numpy_helper.to_array(initializers(found.model)[conv.input[1]])
    integers, scale = (numpy_helper.to_array(stored[f"u_{end}"]) for end in ("quantized", "scale"))
    assert np.array_equal(weight, integers.astype(np.float32) * scale[:, None, None, None])
