"""Repairs, each held against the numbers of ONNX Runtime with graph optimizations off, before and after."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engines.lint import fix, lint
from engines.lint.repair_params import dequantize, symmetric_scale
from engines.lint.view import Quant, views

TARGET = "tensorrt-rtx"
SHAPE = (1, 16, 16, 16)


def run(model, **inputs):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.fixture
def x():
    return np.random.default_rng(5).normal(0, 2, SHAPE).astype(np.float32)


def rules(findings):
    return {finding.rule for finding in findings}


def repaired(model, *expected):
    """The repaired model, which lint finds nothing more to repair in."""
    result = fix(model, TARGET)
    assert {repair.rule for repair in result.repairs} == set(expected)
    assert not any(finding.fixable for finding in result.remaining)
    assert not rules(result.remaining) & set(expected)
    onnx.checker.check_model(result.model, full_check=True)
    return result


def kinds(model):
    return [node.op_type for node in model.graph.node]


# --- repairs that change no number


def bias_network(n):
    grid = [n.constant(np.linspace(0.01, 0.02, 32).astype(np.float32)), n.constant(np.zeros(32, np.int32))]
    values = n.constant(np.arange(-16, 16, dtype=np.int32) * 1001)
    return n.conv("x", bias=n.op("DequantizeLinear", values, *grid, axis=0))


def twice_network(n):
    return n.conv(n.qdq("x"))


def moved_network(n):
    return n.conv("", data=n.op("Relu", n.qdq("x")))


def resized_network(n):
    scales = n.constant(np.float32([1, 1, 2, 2]))
    return n.conv("", data=n.op("Resize", n.op("Relu", n.qdq("x")), "", scales, mode="nearest"))


def relu_network(n):
    """Q/DQ between a convolution and its Relu, and none behind that."""
    return n.conv("", data=n.op("Relu", n.qdq(n.conv("x", name="c0"))), size=32)


def listed_network(n):
    return n.conv("", data=n.qdq("x", np.full(1, 0.05, np.float32), np.zeros(1, np.int8)))


def microsoft_network(n):
    return n.conv("", data=n.qdq("x", domain="com.microsoft"))


def shifted_network(n):
    return n.conv("", data=n.qdq("x", zero=np.uint8(128)), weight=n.weight(32, 16, 3, 3, zero=np.uint8(128)))


EXACT = {
    "int32_bias": bias_network,
    "double_qdq": twice_network,
    "not_int8_through": resized_network,
    "qdq_before_activation": relu_network,
    "scale_shape": listed_network,
    "microsoft_qdq": microsoft_network,
    "zero_point": shifted_network,
}


@pytest.mark.parametrize("rule", EXACT)
def test_the_repair_changes_no_number(net, x, rule):
    n = net()
    model = n.model(EXACT[rule](n), domains=["com.microsoft"])

    result = repaired(model, rule)

    assert not any(repair.difference for repair in result.repairs)
    np.testing.assert_array_equal(run(model, x=x), run(result.model, x=x))


def test_the_model_that_is_given_stays_as_it_is(net):
    n = net()
    model = n.model(bias_network(n))
    before = model.SerializeToString()

    fix(model, TARGET)

    assert model.SerializeToString() == before


def test_a_model_without_findings_stays_as_it_is(net):
    n = net()
    model = n.model(n.conv("x"))

    result = fix(model, TARGET)

    assert result.model.SerializeToString() == model.SerializeToString()
    assert result.repairs == ()


def test_a_pair_moved_behind_relu_is_read_by_all_who_read_it_before(net, x):
    n = net()
    relu = n.op("Relu", n.qdq("x"))
    model = n.model(n.op("Add", n.conv("", data=relu), n.conv("", data=relu, name="c2")))

    result = repaired(model, "not_int8_through")

    assert kinds(result.model).count("QuantizeLinear") == 1
    np.testing.assert_array_equal(run(model, x=x), run(result.model, x=x))


def test_a_pair_that_others_read_stays_when_another_is_put_behind_the_relu(net, x):
    n = net()
    data = n.qdq("x")
    model = n.model(n.op("Concat", n.conv("", data=n.op("Relu", data)), n.op("Tanh", data), axis=1))

    result = repaired(model, "not_int8_through")

    assert kinds(result.model).count("QuantizeLinear") == 2
    np.testing.assert_array_equal(run(model, x=x), run(result.model, x=x))


def test_a_shared_scale_changes_only_where_it_is_repaired(net, x):
    n = net()
    grid = [n.constant(np.float32(0.05)), n.constant(np.uint8(128))]
    other = n.op("DequantizeLinear", n.constant(np.full((1, 16, 1, 1), 131, np.uint8)), *grid)
    data = n.op("DequantizeLinear", n.op("QuantizeLinear", "x", *grid), *grid)
    model = n.model(n.op("Mul", data, other))

    result = repaired(model, "zero_point")

    np.testing.assert_array_equal(run(model, x=x), run(result.model, x=x))


# --- repairs that round otherwise


@pytest.mark.parametrize(
    ("zero", "low", "high"), [(np.uint8(0), 0, 255), (np.int8(-128), 0, 255), (np.int8(3), -131, 124)]
)
def test_another_grid_rounds_within_the_two_half_steps(net, zero, low, high):
    scale = 0.05
    n = net()
    model = n.model(n.qdq("x", scale, zero))
    result = repaired(model, "uint8" if zero.dtype == np.uint8 else "zero_point")
    new = numpy_helper.to_array(next(t for t in result.model.graph.initializer if t.dims == [] and t.data_type == 1))
    x = np.linspace(low * scale, high * scale, int(np.prod(SHAPE)), dtype=np.float32).reshape(SHAPE)

    before, after = run(model, x=x), run(result.model, x=x)

    assert np.abs(before - after).max() <= (scale + new) / 2 + 1e-5
    assert float(new) == pytest.approx(max(-low, high) * scale / 127)
    assert "2.01 times" in result.repairs[0].difference or low < 0


def test_a_zero_point_that_stood_for_a_relu_becomes_one(net):
    n = net()
    model = n.model(n.qdq(n.conv("x"), 0.02, np.uint8(0)))
    x = np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)

    result = repaired(model, "uint8")

    assert run(model, x=x).min() == run(result.model, x=x).min() == 0
    assert "Relu" in kinds(result.model)


def test_no_relu_is_added_behind_what_is_never_negative(net):
    n = net()
    model = n.model(n.qdq(n.op("MaxPool", n.op("Sigmoid", "x"), kernel_shape=[2, 2]), 1 / 255, np.uint8(0)))

    assert "Relu" not in kinds(repaired(model, "uint8").model)


def test_a_missing_zero_point_is_read_as_onnx_reads_it(net):
    n = net()
    model = n.model(n.qdq(n.op("Sigmoid", "x"), 1 / 255, None))
    x = np.linspace(-4, 4, int(np.prod(SHAPE)), dtype=np.float32).reshape(SHAPE)

    result = repaired(model, "no_zero_point")

    assert np.abs(run(model, x=x) - run(result.model, x=x)).max() <= (1 / 255 + 1 / 127) / 2 + 1e-6


@pytest.mark.parametrize("zero", [np.uint8(90), np.int8(-7)])
def test_weights_with_a_zero_point_are_stored_on_a_grid_as_wide_as_they_are(net, zero):
    n = net()
    weight = n.weight(32, 16, 3, 3, zero=zero)
    model = n.model(weight)

    result = repaired(model, "zero_point")

    before, after = (run(each, x=np.zeros(SHAPE, np.float32)) for each in (model, result.model))
    step = np.abs(before).max(axis=(1, 2, 3), keepdims=True) / 127
    assert np.all(np.abs(before - after) <= step / 2 + 1e-7)
    assert next(t for t in result.model.graph.initializer if t.dims[:1] == [32] and len(t.dims) == 4).data_type == 3


def test_the_int32_bias_is_stored_before_the_scale_of_its_input_changes(net, x):
    n = net()
    grid = [n.constant(np.full(32, 1e-4, np.float32)), n.constant(np.zeros(32, np.int32))]
    bias = n.op("DequantizeLinear", n.constant(np.arange(32, dtype=np.int32) * 1000), *grid, axis=0)
    model = n.model(n.conv("", data=n.qdq(n.op("Relu", "x"), 0.03, np.uint8(0)), bias=bias))

    result = repaired(model, "int32_bias", "uint8")

    error = np.abs(run(model, x=x) - run(result.model, x=x))
    assert error.max() < 0.1 * np.abs(run(model, x=x)).max()


def depthwise_network(n):
    scale = np.linspace(0.01, 0.3, 16).astype(np.float32)
    return n.conv("", data=n.qdq("x", scale, np.zeros(16, np.int8)), out=16, group=16)


def test_scales_per_channel_of_a_depthwise_input_move_into_the_graph_and_the_weights(net, x):
    n = net()
    model = n.model(depthwise_network(n))

    result = repaired(model, "per_channel_activation")

    before = run(model, x=x)
    np.testing.assert_allclose(before, run(result.model, x=x), rtol=0, atol=2e-6 * np.abs(before).max())
    assert kinds(result.model).count("QuantizeLinear") == 1


def test_scales_per_channel_of_other_layers_are_left_to_the_user(net):
    n = net()
    model = n.model(n.conv("", data=n.qdq("x", np.full(16, 0.05, np.float32), np.zeros(16, np.int8))))

    assert fix(model, TARGET).repairs == ()


@pytest.mark.parametrize("kind", ["silu", "gate", "residual"])
def test_a_pair_that_breaks_a_fusion_is_taken_out(net, x, kind):
    n = net()
    made = n.conv("x", name="c0")
    match kind:
        case "silu":
            made = n.silu(n.qdq(made, 0.15))
        case "gate":
            made = n.op("Mul", made, n.qdq(n.op("Sigmoid", made), 1 / 127))
        case "residual":
            skip = n.op("Relu", made)
            made = n.op("Add", n.qdq(n.conv(skip, size=32), 0.4), n.qdq(skip, 0.05))
    model = n.model(n.conv(made, size=32, name="last"))
    rule = {"silu": "qdq_before_activation", "gate": "qdq_inside_activation", "residual": "residual_conv_side"}[kind]

    result = repaired(model, rule)

    assert kinds(result.model).count("QuantizeLinear") == kinds(model).count("QuantizeLinear") - 1
    assert {repair.difference for repair in result.repairs} == {"one rounding less, and its clipping"}
    difference = run(model, x=x) - run(result.model, x=x)
    assert np.abs(difference).max() > 0
    assert np.abs(difference).mean() < 0.1 * np.abs(run(model, x=x)).mean()


def concat_network(n, *scales):
    parts = [n.qdq(n.op("Relu", n.conv("x", name=f"p{i}")), scale) for i, scale in enumerate(scales)]
    return n.conv("", data=n.op("Concat", *parts, axis=1), size=32 * len(scales))


def test_scales_at_a_concatenation_become_the_widest(net, x):
    n = net()
    model = n.model(concat_network(n, 0.05, 0.08, 0.06))

    result = repaired(model, "concat_scales")

    pairs = [q for q in next(views(result.model)).quants.values() if q.tensor.startswith("t") and q.quantizes]
    assert [float(q.scale) for q in pairs] == pytest.approx([0.08] * 3)
    assert "1.6 times" in result.repairs[0].difference


def test_scales_that_are_far_apart_are_not_tied(net):
    n = net()
    model = n.model(concat_network(n, 0.001, 0.08))

    result = fix(model, TARGET)

    assert result.repairs == ()
    assert any("leave one side float: they are 80 times apart" in finding.fix for finding in result.remaining)


def test_concatenations_that_share_an_input_share_one_scale(net):
    n = net()
    parts = [n.qdq(n.op("Relu", n.conv("x", name=f"p{i}")), scale) for i, scale in enumerate((0.05, 0.08, 0.1))]
    both = [n.op("Concat", parts[0], parts[1], axis=1), n.op("Concat", parts[1], parts[2], axis=1)]
    model = n.model(*[n.conv("", data=joined, size=64, name=f"c{i}") for i, joined in enumerate(both)])

    result = repaired(model, "concat_scales")

    scales = {float(q.scale) for q in next(views(result.model)).quants.values() if q.tensor.startswith("t")}
    assert {round(scale, 6) for scale in scales} == {0.05, 0.1}  # 0.05 is the scale of the image's own Q/DQ


# --- what is not repaired


def test_integers_that_others_read_stay_as_they_are(net):
    n = net()
    grid = [n.constant(np.float32(0.05)), n.constant(np.uint8(7))]
    quantized = n.op("QuantizeLinear", "x", *grid)
    moved = n.op("Transpose", quantized, perm=[0, 1, 3, 2])
    model = n.model(n.conv("", data=n.op("DequantizeLinear", moved, *grid)))

    found = lint(model, TARGET)

    assert not any(finding.fixable for finding in found if finding.rule == "zero_point")
    assert fix(model, TARGET).repairs == ()


def test_other_targets_are_repaired_only_where_they_ask_for_it(net):
    n = net()
    model = n.model(bias_network(n))

    assert fix(model, "openvino").repairs == fix(model, "onnxruntime").repairs == ()


# --- properties


@settings(deadline=None)
@given(
    scale=st.floats(2**-13, 8, width=32),
    zero=st.integers(-128, 127),
    values=st.lists(st.integers(-128, 127), min_size=1, max_size=20),
)
def test_the_symmetric_grid_reaches_as_far_as_the_old_one(scale, zero, values):
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    quant = Quant(
        node, "q", "x", np.float32(scale).reshape(()), np.int8(zero).reshape(()), TensorProto.INT8, True, 1, 0
    )

    new = float(symmetric_scale(quant))
    real = dequantize(np.array(values, np.int8), quant)

    steps = np.rint(real.astype(np.float64) / new)
    assert np.abs(steps).max() <= 127 + 1  # -128 - zero may be the farther end
    assert np.all(np.abs(np.clip(steps, -128, 127) * new - real) <= new / 2 + 1e-4 * new)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_mixture_of_mistakes_is_repaired_to_what_lint_accepts(net, seed):
    rng = np.random.default_rng(seed)
    n = net()
    zeros = [np.int8(0), np.int8(-128), np.int8(5), np.uint8(0), np.uint8(128), None]
    tensor, size = "x", 16
    for index in range(3):
        data = n.qdq(tensor, rng.uniform(0.01, 0.1), zeros[rng.integers(len(zeros))])
        weight = n.weight(32, size, 3, 3, zero=[np.int8(0), np.int8(2), np.uint8(128)][rng.integers(3)])
        made = n.conv("", data=data, weight=weight, name=f"c{index}")
        made = n.qdq(made, 0.05, zeros[rng.integers(len(zeros))]) if rng.random() < 0.5 else made
        tensor, size = (n.op("Relu", made), n.silu(made), made)[rng.integers(3)], 32
    model = n.model(tensor)
    x = rng.normal(0, 1, SHAPE).astype(np.float32)

    result = fix(model, TARGET)

    assert not any(finding.severity in {"refused", "changed"} for finding in result.remaining)
    onnx.checker.check_model(result.model, full_check=True)
    assert run(result.model, x=x).shape == run(model, x=x).shape
