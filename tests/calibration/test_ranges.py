"""calibration.ranges: histograms of |x| and the ranges that follow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avcompress.spec import DataError, TensorRange
from calibration.ranges import (
    BINS,
    Histogram,
    channel_range,
    histogram,
    merge,
    range_from,
    squared_error,
    symmetric_int8,
)

arrays = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def same(a: Histogram, b: Histogram) -> bool:
    return a.exponent == b.exponent and a.amax == b.amax and np.array_equal(a.counts, b.counts)


def fake_quantized(x, clip):
    scale = clip / 127
    return np.clip(np.rint(x / scale), -127, 127) * scale


def test_values_fall_into_bins_of_a_power_of_two():
    hist = histogram(np.float32([0, -0.5, 1.5, 1.9999, -3]))

    width = 4 / BINS  # 4 is the power of two above 3
    assert hist.exponent == np.log2(width)
    assert np.flatnonzero(hist.counts).tolist() == [0, 512, 1536, 2047, 3072]
    assert hist.amax == 3


def test_a_power_of_two_itself_still_has_a_bin():
    hist = histogram(np.float32([4.0]))

    assert hist.counts.sum() == 1
    assert hist.counts[BINS // 2] == 1


def test_counts_agree_with_numpy_beyond_one_chunk():
    x = np.random.default_rng(0).standard_normal((3, 300, 401)).astype(np.float32)

    hist = histogram(x)

    expected, _ = np.histogram(np.abs(x).astype(np.float64), BINS, (0, BINS * 2.0**hist.exponent))
    assert np.array_equal(hist.counts, expected)


def test_views_with_strides_are_counted_like_their_copies():
    x = np.arange(24, dtype=np.float32).reshape(4, 6)

    assert same(histogram(x.T[::2]), histogram(x.T[::2].copy()))


@given(a=arrays, b=arrays)
@settings(deadline=None)
def test_merging_equals_counting_everything_at_once_in_any_order(a, b):
    at_once = histogram(np.concatenate([a, b]))

    assert same(merge(histogram(a), histogram(b)), at_once)
    assert same(merge(histogram(b), histogram(a)), at_once)
    first = histogram(a)
    assert same(merge(first, histogram(b, first.exponent)), at_once)


def test_merging_with_a_far_larger_range_keeps_every_count():
    hist = merge(histogram(np.full(7, 1e-20, np.float32)), histogram(np.float32([1e20])))

    assert hist.counts[0] == 7
    assert hist.counts.sum() == 8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_where_it_was(bad):
    with pytest.raises(DataError, match="'conv1', calibration image 3: expected finite values"):
        histogram(np.float32([0, bad]), where="'conv1', calibration image 3")


def test_minmax_keeps_every_value():
    assert range_from(histogram(np.float32([-3, 1])), "minmax") == TensorRange((-3.0,), (3.0,))


@pytest.mark.parametrize("method", ["mse", "minmax"])
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 0.3, 255.0, 3.4e38])
def test_a_constant_tensor_gets_a_positive_scale_and_keeps_its_value(value, method):
    params = symmetric_int8(range_from(histogram(np.full(5, value, np.float32)), method))

    assert params.scale[0] > 0
    assert np.rint(np.float32(value) / np.float32(params.scale[0])) <= 128
    if value > 1e-30:
        assert abs(np.rint(value / params.scale[0]) * params.scale[0] - value) <= 1e-2 * value


def test_the_expected_error_agrees_with_the_error_of_the_values_themselves():
    x = np.random.default_rng(1).laplace(size=200_000).astype(np.float32)
    hist = histogram(x)
    clips = hist.amax * np.array([1.0, 0.7, 0.4, 0.1])

    measured = [np.sum((x - fake_quantized(x.astype(np.float64), clip)) ** 2) for clip in clips]

    assert squared_error(hist, clips) == pytest.approx(measured, rel=2e-3)


def test_the_expected_error_of_uniform_values_is_a_twelfth_of_a_squared_step():
    counts = np.full(BINS, 10, np.int64)  # uniform over [0, 1)
    step = 1 / 127

    (error,) = squared_error(Histogram(counts, -12, 1.0), np.array([1.0]))

    assert error / counts.sum() == pytest.approx(step**2 / 12, rel=1e-6)


@given(seed=st.integers(0, 1000), tail=st.sampled_from([1.0, 10.0, 40.0]))
@settings(deadline=None, max_examples=20)
def test_the_mse_range_is_as_good_as_any_of_a_brute_force_search(seed, tail):
    x = np.random.default_rng(seed).standard_normal(4000).astype(np.float32)
    x[0] *= tail
    hist = histogram(x)

    (clip,) = range_from(hist, "mse").high

    def error(c):
        return np.sum((x - fake_quantized(x.astype(np.float64), c)) ** 2)

    assert clip <= hist.amax
    assert error(clip) <= 1.02 * min(error(hist.amax * f) for f in np.linspace(0.02, 1, 400))


def test_an_outlier_is_clipped():
    x = np.random.default_rng(2).standard_normal(2_000_000).astype(np.float32)
    x[7] = 20

    assert 3 < range_from(histogram(x), "mse").high[0] < 10


def test_channels_get_their_own_scale_and_one_of_zeros_gets_a_positive_one():
    weight = np.array([[[1.0, -2.54]], [[0.0, 0.0]], [[0.5, 0.25]]], np.float32)

    params = symmetric_int8(channel_range(weight, 0))

    assert params.axis == 0
    assert params.scale == pytest.approx((0.02, 1 / 127, 0.5 / 127))
    assert params.zero_point == (0, 0, 0)


def test_scales_are_float32_numbers():
    (scale,) = symmetric_int8(TensorRange((-1.0,), (1.0,))).scale

    assert scale == float(np.float32(scale))
