"""avcompress.quant.params: scales and zero points, held against brute force and hand-computed cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.quant.params import activation_params, asymmetric, symmetric, weight_params, weight_scales
from avcompress.recipe import Ptq
from avcompress.spec import TensorRange
from engines.qdq import dequantize_array, quantize_array

RNG = np.random.default_rng(0)


def settings(**given):
    return Ptq(kind="ptq", **given)


def test_the_largest_magnitude_is_the_largest_level():
    values = TensorRange((-2.54,), (1.0,))

    assert activation_params(values, settings()).scale[0] == pytest.approx(0.02)
    assert activation_params(values, settings(format="fp8")).scale[0] == pytest.approx(2.54 / 448)
    assert activation_params(values, settings(format="fp8")).dtype == "float8e4m3fn"


def test_asymmetric_levels_span_the_range_by_hand():
    params = activation_params(TensorRange((-1.0,), (4.1,)), settings(activations="asymmetric"))

    assert params.scale[0] == pytest.approx(0.02)
    assert params.zero_point == (-78,)  # -128 + 1.0 / 0.02
    assert params.dtype == "int8"


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(0.0, 5.1, -128), (-5.1, 0.0, 127), (2.0, 5.1, -128), (-3.0, -1.0, 127)]
)
def test_an_asymmetric_range_is_widened_to_hold_zero(low, high, zero):
    assert asymmetric(TensorRange((low,), (high,))).zero_point == (zero,)


@given(low=st.floats(-1e30, 1e30), high=st.floats(-1e30, 1e30))
def test_asymmetric_int8_represents_zero_exactly_and_everything_within_a_step(low, high):
    low, high = sorted((low, high))
    params = asymmetric(TensorRange((low,), (high,)))
    values = np.concatenate([[0.0], np.linspace(min(low, 0), max(high, 0), 50)]).astype(np.float32)

    found = dequantize_array(quantize_array(values, params), params)

    assert found[0] == 0
    assert np.abs(found - values).max() <= params.scale[0] * 1.01  # half a step, and at an end the zero point's half
    assert -128 <= params.zero_point[0] <= 127


@given(amax=st.floats(0, 1e30), dtype=st.sampled_from(["int8", "int4"]))
def test_symmetric_levels_reach_both_ends_and_never_the_lowest_one(amax, dtype):
    params = symmetric(TensorRange((-amax,), (amax,)), dtype)
    values = np.array([-amax, 0, amax], np.float32)

    stored = quantize_array(values, params).astype(int)

    qmax = {"int8": 127, "int4": 7}[dtype]
    assert stored[1] == 0
    assert abs(stored[0]) == stored[2] <= qmax
    assert stored[2] == qmax or amax < 1e-30


def test_zeros_alone_get_a_finite_scale():
    for params in (symmetric(TensorRange((0.0,), (0.0,))), asymmetric(TensorRange((0.0,), (0.0,)))):
        assert np.isfinite(params.scale[0])
        assert params.scale[0] > 0
        assert dequantize_array(quantize_array(np.zeros(3, np.float32), params), params).tolist() == [0, 0, 0]


def test_channels_of_a_range_keep_their_axis():
    params = activation_params(TensorRange((-1.0, -2.0), (1.0, 1.0), axis=1), settings())

    assert params.axis == 1
    assert params.scale == pytest.approx((1 / 127, 2 / 127))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("given", "qmax"), [({}, 127), ({"format": "fp8"}, 448)])
def test_weights_have_a_scale_for_each_output_channel(axis, given, qmax):
    weight = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)
    weight.take(2, axis)[...] = 0

    params = weight_params(weight, axis, settings(**given))

    expected = [np.abs(weight.take(c, axis)).max() / qmax for c in range(weight.shape[axis])]
    assert params.scale == pytest.approx(expected)
    assert params.axis == axis


def test_weights_may_have_one_scale():
    weight = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)

    params = weight_params(weight, 0, settings(weights="per_tensor"))

    assert params.scale == pytest.approx((np.abs(weight).max() / 127,))
    assert params.axis is None


def test_a_channel_of_zeros_is_stored_as_zeros():
    weight = RNG.standard_normal((3, 4)).astype(np.float32)
    weight[1] = 0

    params = weight_scales(weight, 0)

    assert np.isfinite(params.scale).all()
    assert not quantize_array(weight, params)[1].any()


@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_share_a_scale_along_the_inputs(axis):
    weight = RNG.standard_normal((8, 12)).astype(np.float32)

    params = weight_scales(weight, axis, "int4", 4)

    blocks = np.split(weight, weight.shape[axis] // 4, axis)
    expected = np.stack([np.abs(block).max(axis) / 7 for block in blocks], axis)
    assert params.scale == pytest.approx(expected.ravel().tolist())
    found = dequantize_array(quantize_array(weight, params), params)
    assert (np.abs(found - weight) <= np.repeat(expected, 4, axis) / 2 * 1.001).all()


@given(st.integers(0, 10**6))
def test_finer_scales_never_lose_to_coarser_ones_at_the_largest_weight(seed):
    weight = np.random.default_rng(seed).standard_normal((8, 8)).astype(np.float32)
    whole, channels, blocks = weight_scales(weight, None), weight_scales(weight, 0), weight_scales(weight, 1, "int8", 4)

    assert max(channels.scale) == pytest.approx(whole.scale[0])
    assert max(blocks.scale) == pytest.approx(whole.scale[0])
    assert min(blocks.scale) <= min(channels.scale) * 1.0001


def test_weights_of_seven_bits_reach_half_of_the_range():
    weight = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32)

    params = weight_params(weight, 0, Ptq(kind="ptq", weight_bits=7))

    assert params.dtype == "int8"
    assert np.abs(quantize_array(weight, params)).max(axis=1).tolist() == [63, 63]


def test_fp8_has_no_half_of_a_range():
    with pytest.raises(ValueError, match="expected weight_bits: 8 with fp8"):
        Ptq(kind="ptq", format="fp8", weight_bits=7)
