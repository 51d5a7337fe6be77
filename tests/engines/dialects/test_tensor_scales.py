"""engines.dialects.tensor_scales: which scale each tensor gets, case by case, and that passing one on loses nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avcompress.spec import QuantParams, TensorRange
from engines.dialects.tensor_scales import Scale, tensor_scales
from engines.qdq import dequantize_array, quantize_array

W = np.ones((4, 4, 1, 1), np.float32)


def scales(model, known, **ranges):
    return tensor_scales(model, known, {name: TensorRange((low,), (high,)) for name, (low, high) in ranges.items()})


def test_scales_go_back_through_what_only_picks_or_clips(net):
    model = net("a = Conv(x, w) b = Relu(a) c = MaxPool<kernel_shape=[2,2]>(b) y = Conv(c, w)", {"w": W})

    found = scales(model, {"c": 0.5, "x": 0.25})

    assert found == {
        "x": Scale(0.25, "q/dq"),
        "c": Scale(0.5, "q/dq"),
        "b": Scale(0.5, "passed on"),
        "a": Scale(0.5, "passed on"),
    }


def test_a_tensor_with_a_float_reader_gets_none_from_the_others(net):
    model = net("a = Conv(x, w) b = Relu(a) c = Sigmoid(a) y = Conv(b, w)", {"w": W}, outputs=("y", "c"))

    assert "a" not in scales(model, {"b": 0.5})


def test_an_output_of_the_network_gets_none(net):
    model = net("a = Conv(x, w) b = Relu(a) y = Conv(b, w)", {"w": W}, outputs=("y", "a"))

    assert "a" not in scales(model, {"b": 0.5})


def test_the_coarsest_of_several_readers_counts(net):
    body = "a = Conv(x, w) b = Relu(a) c = MaxPool<kernel_shape=[2,2]>(a) y = Conv(b, w) z = Conv(c, w)"
    model = net(body, {"w": W}, outputs=("y", "z"))

    assert scales(model, {"b": 0.25, "c": 0.5})["a"] == Scale(0.5, "passed on")


def test_slices_of_the_input_give_it_their_scale(net):
    cut = {"s": np.int64([0]), "e": np.int64([4]), "f": np.int64([8]), "i": np.int64([3])}
    body = "l = Slice(x, s, e, i) r = Slice(x, e, f, i) c = Concat<axis=1>(l, r) y = Conv(c, w)"
    model = net(body, cut | {"w": np.ones((4, 8, 1, 1), np.float32)})

    found = scales(model, {"c": 2.0})

    assert {name: found[name].value for name in "xlrc"} == dict.fromkeys("xlrc", 2.0)


def test_scales_go_on_with_the_flow_where_values_stay_within(net):
    body = (
        'a = LeakyRelu(x) b = Resize<mode="linear">(a, , s) c = Transpose<perm=[0,1,3,2]>(b) d = Sigmoid(c) y = Relu(d)'
    )
    found = scales(net(body, {"s": np.float32([1, 1, 2, 2])}), {"x": 0.5})

    assert set(found) == {"x", "a", "b", "c"}


def test_a_concat_of_two_scales_has_none(net):
    model = net("a = Relu(x) b = Neg(x) c = Concat<axis=1>(a, b) y = Sigmoid(c)")

    assert scales(model, {"a": 0.5, "b": 0.5})["c"] == Scale(0.5, "passed on")
    assert "c" not in scales(model, {"a": 0.5, "b": 0.25})


def test_a_range_is_used_where_nothing_is_passed_on(net):
    model = net("a = Conv(x, w) b = Relu(a) c = Conv(b, w) y = Neg(c)", {"w": W})

    found = scales(model, {"x": 1.0, "b": 0.5}, a=(-300.0, 10.0), c=(-254.0, 10.0), y=(0.0, 0.0))

    assert found["a"] == Scale(0.5, "passed on")
    assert found["c"] == Scale(2.0, "range")
    assert "y" not in found


def test_constants_of_elementwise_operators_have_scales_and_weights_have_none(net):
    model = net(
        "a = Conv(x, w, k) b = Add(a, k1) y = Mul(b, z)",
        {"w": W, "k": np.ones(4, np.float32), "k1": np.float32(-254), "z": np.float32(0)},
    )

    found = scales(model, {})

    assert found == {"k1": Scale(2.0, "constant"), "z": Scale(1.0, "constant")}


@given(
    values=hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-1000, 1000, width=32)),
    scale=st.floats(2**-6, 4, width=32),
    low=st.floats(-50, 0, width=32),
    high=st.floats(0, 50, width=32),
)
def test_rounding_before_a_pick_or_a_bound_is_rounding_after_it(values, scale, low, high):
    def rounded(x):
        params = QuantParams((scale,), (0,))
        return dequantize_array(quantize_array(np.asarray(x, np.float32), params), params)

    for pick in (
        lambda x: np.maximum(x, 0),
        lambda x: x.max(-1),
        lambda x: np.clip(x, low, high),
        lambda x: x[:, ::2].T,
    ):
        assert np.array_equal(rounded(pick(rounded(values))), rounded(pick(values)))


@pytest.mark.parametrize("op", ["Sigmoid", "Neg", "GlobalAveragePool", "AveragePool<kernel_shape=[2,2]>", "LeakyRelu"])
def test_other_operators_pass_nothing_back(net, op):
    assert "x" not in scales(net(f"a = {op}(x) y = Relu(a)"), {"a": 0.5})
