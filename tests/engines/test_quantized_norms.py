"""engines.quantized_norms: the integers stay, the function stays; ONNX Runtime with optimizations off is the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from avcompress.spec import QuantParams
from engines.in_memory import open_model
from engines.onnx_graph import initializers
from engines.qdq import dequantize_array
from engines.quantized_norms import fold_quantized_batch_norms, rescale

CHANNELS = 6
AXIS = {"Conv": 0, "ConvTranspose": 1}


def build(network_, op="Conv", stored=True, per_channel=True, bias="float", gamma=None, zero=0, dtype=np.int8):
    """x -> Q/DQ -> Conv with a dequantized weight -> BatchNormalization -> Relu -> y."""
    rng = np.random.default_rng(0)
    axis = AXIS[op]
    shape = (CHANNELS, 3, 3, 3) if op == "Conv" else (3, CHANNELS, 3, 3)
    scale = rng.uniform(0.01, 0.02, CHANNELS if per_channel else ()).astype(np.float32)
    low, high = (-127, 127) if dtype == np.int8 else (1, 255)
    integers = rng.integers(low, high, shape, endpoint=True).astype(dtype)
    by_channel = scale.reshape([-1 if i == axis else 1 for i in range(4)]) if per_channel else scale
    constants = {
        "ws": scale,
        "wz": np.full(scale.shape, zero, dtype),
        "xs": np.float32(0.05),
        "xz": np.int8(0),
        "g": (rng.uniform(-2, 2, CHANNELS) if gamma is None else np.asarray(gamma)).astype(np.float32),
        "beta": rng.standard_normal(CHANNELS).astype(np.float32),
        "m": rng.standard_normal(CHANNELS).astype(np.float32),
        "v": rng.uniform(0.5, 2, CHANNELS).astype(np.float32),
        "w": integers if stored else ((integers.astype(np.float32) - zero) * by_channel).astype(np.float32),
        "bf": rng.standard_normal(CHANNELS).astype(np.float32),
        "bi": rng.integers(-999, 999, CHANNELS).astype(np.int32),
        "bs": np.full(CHANNELS, 0.001, np.float32),
    }
    grid = {"axis": axis} if per_channel else {}
    names = {"float": ["bf"], "int32": ["bd"], "none": []}[bias]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], "xQ"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], "xDQ"),
        *([] if stored else [helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], "wQ", **grid)]),
        helper.make_node("DequantizeLinear", ["w" if stored else "wq", "ws", "wz"], ["wd"], "wDQ", **grid),
        *([helper.make_node("DequantizeLinear", ["bi", "bs"], ["bd"], "bDQ", axis=0)] if bias == "int32" else []),
        helper.make_node(op, ["xd", "wd", *names], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", "g", "beta", "m", "v"], ["n"], "norm", epsilon=1e-3),
        helper.make_node("Relu", ["n"], ["y"], "relu"),
    ]
    used = {name for node in nodes for name in node.input}
    size = 6 if op == "Conv" else 10
    kept = {name: value for name, value in constants.items() if name in used}
    return network_(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, CHANNELS, size, size)}, kept)


def run(model):
    image = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    return open_model(model).run(None, {"x": image})[0]


def kinds(model):
    return [node.op_type for node in model.graph.node]


def stored_weight(model):
    constants = initializers(model)
    conv = next(n for n in model.graph.node if n.name == "conv")
    node = next(n for n in model.graph.node if n.output[0] == conv.input[1])
    return tuple(numpy_helper.to_array(constants[name]) for name in node.input)


@pytest.mark.parametrize("op", AXIS)
@pytest.mark.parametrize("stored", [True, False], ids=["integers", "float with Q"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("bias", ["float", "int32", "none"])
def test_the_norm_is_gone_and_the_function_stays(network, op, stored, per_channel, bias):
    model = build(network, op=op, stored=stored, per_channel=per_channel, bias=bias)

    folded = fold_quantized_batch_norms(model)

    assert "BatchNormalization" not in kinds(folded)
    expected = run(model)
    assert np.abs(run(folded) - expected).max() <= 1e-5 * np.abs(expected).max()
    integers, scale, zero = stored_weight(folded)
    assert integers.dtype == zero.dtype == np.int8
    assert scale.shape == zero.shape == (CHANNELS,)


def test_only_the_sign_of_integers_changes(network):
    model = build(network, gamma=[1, -1, 0.5, -3, 0, 2])
    before = stored_weight(model)[0].astype(int)

    after = stored_weight(fold_quantized_batch_norms(model))[0].astype(int)

    assert np.array_equal(after, before * np.array([1, -1, 1, -1, 0, 1]).reshape(-1, 1, 1, 1))


def test_zero_points_are_mirrored(network):
    model = build(network, zero=128, dtype=np.uint8)

    folded = fold_quantized_batch_norms(model)

    expected = run(model)
    assert np.abs(run(folded) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert stored_weight(folded)[2].tolist() == [128] * CHANNELS


@pytest.mark.parametrize(("sign", "stays"), [(-1, True), (1, False)])
def test_a_weight_of_minus_128_that_would_become_128_keeps_its_norm(network, sign, stays):
    model = build(network, gamma=np.full(CHANNELS, sign))
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            values = numpy_helper.to_array(tensor).copy()
            values[2, 1, 0, 0] = -128
            tensor.CopyFrom(numpy_helper.from_array(values, "w"))

    folded = fold_quantized_batch_norms(model)

    assert ("BatchNormalization" in kinds(folded)) is stays
    assert np.abs(run(folded) - run(model)).max() < 1e-4


def test_a_float_weight_and_a_convolution_that_is_read_twice_stay(network):
    plain = build(network)
    node = next(n for n in plain.graph.node if n.name == "conv")
    node.input[1] = "wf"
    plain.graph.initializer.append(numpy_helper.from_array(np.ones((CHANNELS, 3, 3, 3), np.float32), "wf"))
    assert "BatchNormalization" in kinds(fold_quantized_batch_norms(plain))

    twice = build(network)
    twice.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, (1, CHANNELS, 6, 6)))
    assert "BatchNormalization" in kinds(fold_quantized_batch_norms(twice))


def test_the_given_network_is_not_changed(network):
    model = build(network)
    before = model.SerializeToString()

    fold_quantized_batch_norms(model)

    assert model.SerializeToString() == before


# --- parameters


def test_scales_take_the_magnitude_by_hand():
    params = QuantParams((0.5, 0.25), (0, 3), "int8", 1)

    assert rescale(params, np.array([-2, 0.5]), 1) == QuantParams((1.0, 0.125), (0, 3), "int8", 1)
    assert rescale(params, np.array([0, 4]), 1) == QuantParams((0.5, 1.0), (0, 3), "int8", 1)
    assert rescale(QuantParams((0.5,), (0,)), np.array([2, 4]), 0) == QuantParams((1.0, 2.0), (0, 0), "int8", 0)


@given(
    factor=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4),
    scale=st.lists(st.floats(1e-6, 10), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_dequantized_values_are_multiplied(factor, scale, seed):
    integers = np.random.default_rng(seed).integers(-127, 127, (4, 5)).astype(np.int8)
    params = QuantParams(tuple(scale), (0,) * 4, "int8", 0)

    after = dequantize_array(integers, rescale(params, np.array(factor), 0))

    expected = dequantize_array(integers, params) * np.array(factor)[:, None]
    assert after == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "params", [QuantParams((1.0,) * 3, (0,) * 3, "int8", 1), QuantParams((1.0,), (0,), "int4", 0, 2)]
)
def test_scales_along_another_axis_or_in_blocks_are_refused(params):
    with pytest.raises(ValueError, match="expected one for all, or one a channel on axis 0"):
        rescale(params, np.ones(3), 0)
