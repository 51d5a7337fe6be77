"""calibration.mse: the expected squared error in closed form, against the error of the values themselves."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.recipe import Ptq
from avcompress.spec import TensorRange
from calibration.histogram import BINS, Histogram, histogram, moments
from calibration.mse import (
    FP8_LEVELS,
    asymmetric_clips,
    expected_error,
    squared_error,
    squared_error_between,
    symmetric_clip,
)


def fake_quantized(x, clip):
    scale = clip / 127
    return np.clip(np.rint(x / scale), -127, 127) * scale


def fake_quantized_between(x, low, high):
    scale = (high - low) / 255
    zero_point = np.rint(-128 - low / scale)
    return (np.clip(np.rint(x / scale) + zero_point, -128, 127) - zero_point) * scale


def fake_fp8(x, clip):
    scale = clip / 448
    return np.clip(x / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale


def silu_like(seed, size=20_000):
    x = np.random.default_rng(seed).standard_normal(size) * 3
    return (x / (1 + np.exp(-x))).astype(np.float32)


def test_the_levels_of_fp8_are_those_of_the_format():
    codes = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)

    assert np.array_equal(FP8_LEVELS, codes.astype(np.float64))


def test_the_expected_error_agrees_with_the_error_of_the_values_themselves():
    x = np.random.default_rng(1).laplace(size=200_000).astype(np.float32)
    hist = histogram(x)
    clips = hist.amax * np.array([1.0, 0.7, 0.4, 0.1])

    measured = [np.sum((x - fake_quantized(x.astype(np.float64), clip)) ** 2) for clip in clips]
    measured_fp8 = [np.sum((x - fake_fp8(x.astype(np.float64), clip)) ** 2) for clip in clips]

    assert squared_error(hist, clips) == pytest.approx(measured, rel=2e-3)
    assert squared_error(hist, clips, FP8_LEVELS) == pytest.approx(measured_fp8, rel=2e-2)


def test_the_expected_error_between_two_clips_agrees_with_that_of_the_values():
    x = silu_like(0, 200_000)
    lows, highs = np.array([-0.28, -0.1, 0.0, -5]), np.array([11.0, 5.0, 9.0, 5.0])

    measured = [
        np.sum((x - fake_quantized_between(x.astype(np.float64), *c)) ** 2) for c in zip(lows, highs, strict=True)
    ]

    assert squared_error_between(moments(histogram(x)), lows, highs) == pytest.approx(measured, rel=5e-3)


def test_the_expected_error_of_uniform_values_is_a_twelfth_of_a_squared_step():
    counts = np.zeros(2 * BINS - 1, np.int64)
    counts[BINS - 1 :] = 10  # uniform over [0, 1)
    hist = Histogram(counts, -12, 0.0, 1.0)

    (symmetric,) = squared_error(hist, np.array([1.0]))
    (asymmetric,) = squared_error_between(moments(hist), np.array([0.0]), np.array([1.0]))

    assert symmetric / counts.sum() == pytest.approx((1 / 127) ** 2 / 12, rel=1e-6)
    assert asymmetric / counts.sum() == pytest.approx((1 / 255) ** 2 / 12, rel=1e-6)


@given(seed=st.integers(0, 1000), tail=st.sampled_from([1.0, 10.0, 40.0]))
@settings(deadline=None, max_examples=20)
def test_the_symmetric_clip_is_as_good_as_any_of_a_brute_force_search(seed, tail):
    x = np.random.default_rng(seed).standard_normal(4000).astype(np.float32)
    x[0] *= tail
    hist = histogram(x)

    clip = symmetric_clip(hist)

    def error(c):
        return np.sum((x - fake_quantized(x.astype(np.float64), c)) ** 2)

    assert clip <= hist.amax
    assert error(clip) <= 1.02 * min(error(hist.amax * f) for f in np.linspace(0.02, 1, 400))


@given(seed=st.integers(0, 1000), shift=st.sampled_from([-2.0, 0.0, 5.0]), tail=st.sampled_from([1.0, 30.0]))
@settings(deadline=None, max_examples=10)
def test_the_asymmetric_clips_are_as_good_as_any_of_a_brute_force_search(seed, shift, tail):
    x = (silu_like(seed, 4000) + shift).astype(np.float32)
    x[0] *= tail
    hist = histogram(x)

    low, high = asymmetric_clips(hist)

    def error(a, b):
        return np.sum((x - fake_quantized_between(x.astype(np.float64), a, b)) ** 2)

    lowest, highest = min(hist.low, 0.0), max(hist.high, 0.0)
    grid = np.linspace(0.02, 1, 40)
    best = min(
        error(lowest * a, highest * b) for a in (grid if lowest else [0.0]) for b in (grid if highest else [0.0])
    )
    assert lowest <= low <= 0 <= high <= highest
    assert error(low, high) <= 1.03 * best


def test_an_outlier_is_clipped():
    x = np.random.default_rng(2).standard_normal(2_000_000).astype(np.float32)
    x[7] = 20

    assert 3 < symmetric_clip(histogram(x)) < 10
    low, high = asymmetric_clips(histogram(x))
    assert -10 < low < -3
    assert 3 < high < 10


@pytest.mark.parametrize("value", [0.0, 0.5, -0.5])
def test_one_sided_and_constant_values_keep_zero_at_the_end(value):
    low, high = asymmetric_clips(histogram(np.full(9, value, np.float32)))

    assert low == min(value, 0)
    assert high == max(value, 0)


@pytest.mark.parametrize(
    ("changes", "fake"),
    [
        ({}, lambda x, low, high: fake_quantized(x, max(high, -low))),
        ({"activations": "asymmetric"}, fake_quantized_between),
        ({"format": "fp8"}, lambda x, low, high: fake_fp8(x, max(high, -low))),
    ],
    ids=["symmetric", "asymmetric", "fp8"],
)
def test_the_error_of_a_range_is_that_of_its_format(changes, fake):
    x = silu_like(4, 100_000)

    error = expected_error(histogram(x), TensorRange((-0.25,), (8.0,)), Ptq(kind="ptq", **changes))

    assert error == pytest.approx(np.sum((x - fake(x.astype(np.float64), -0.25, 8.0)) ** 2), rel=2e-2)
