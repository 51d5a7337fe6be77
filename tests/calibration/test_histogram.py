"""calibration.histogram: signed histograms that grow by merging, and what is read from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avcompress.spec import DataError
from calibration.histogram import (
    BINS,
    Histogram,
    Scratch,
    Tally,
    histogram,
    magnitudes,
    merge,
    moments,
    moments_of_magnitudes,
    signed,
)

arrays = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def same(a: Histogram, b: Histogram) -> bool:
    facts = (a.exponent, a.low, a.high) == (b.exponent, b.low, b.high)
    return facts and a.counts.dtype == b.counts.dtype == np.int64 and np.array_equal(a.counts, b.counts)


def test_values_fall_into_bins_of_a_power_of_two_on_both_sides_of_zero():
    hist = histogram(np.float32([0, -0.5, 1.5, 1.9999, -3, -0.0001]))

    assert hist.width == 4 / BINS  # 4 is the power of two above 3
    middle = BINS - 1
    filled = {int(i) - middle: int(hist.counts[i]) for i in np.flatnonzero(hist.counts)}
    assert filled == {-3072: 1, -512: 1, 0: 2, 1536: 1, 2047: 1}
    assert (hist.low, hist.high, hist.amax) == (-3, np.float32(1.9999), 3)


def test_a_power_of_two_itself_still_has_a_bin():
    hist = histogram(np.float32([4.0, -4.0]))

    assert magnitudes(hist)[BINS // 2] == 2


@pytest.mark.parametrize("size", [100, 20_000, 1_200_000])
def test_counts_of_magnitudes_agree_with_numpy_for_small_and_large_arrays(size):
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)

    hist = histogram(x)

    expected, _ = np.histogram(np.abs(x).astype(np.float64), BINS, (0, BINS * hist.width))
    assert np.array_equal(magnitudes(hist), expected)
    assert hist.counts.sum() == size


def test_positive_and_negative_values_are_told_apart():
    x = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)

    counts = signed(histogram(x))

    expected, _ = np.histogram(x.astype(np.float64), 2 * BINS, (-BINS * histogram(x).width, BINS * histogram(x).width))
    ours, theirs = np.delete(counts, [BINS - 1, BINS]), np.delete(expected, [BINS - 1, BINS])
    # A negative value on an edge is counted in the bin on the other side of it.
    assert np.abs(ours - theirs).sum() <= 2
    assert counts.sum() == len(x)


def test_the_middle_goes_to_the_side_on_which_all_values_are():
    assert signed(histogram(np.float32([0, 0, 1])))[BINS] == 2
    assert signed(histogram(np.float32([0, 0, -1])))[BINS - 1] == 2
    assert signed(histogram(np.float32([0, 0, 1, -1])))[BINS - 1 : BINS + 1].tolist() == [1, 1]


def test_views_with_strides_are_counted_like_their_copies():
    x = np.arange(24, dtype=np.float32).reshape(4, 6)

    assert same(histogram(x.T[::2]), histogram(x.T[::2].copy()))


@given(a=arrays, b=arrays, c=arrays)
@settings(deadline=None)
def test_merging_equals_counting_everything_at_once_in_any_order(a, b, c):
    at_once = histogram(np.concatenate([a, b, c]))
    first, second, third = histogram(a), histogram(b), histogram(c)

    assert same(merge(merge(first, second), third), at_once)
    assert same(merge(third, merge(second, first)), at_once)
    tally = Tally()
    for part in (b, c, a):
        tally.add_(part, Scratch())
    assert same(tally.histogram, at_once)


def test_merging_with_a_far_larger_range_keeps_every_count():
    hist = merge(histogram(np.full(7, -1e-20, np.float32)), histogram(np.float32([1e20])))

    assert hist.counts[BINS - 1] == 7
    assert hist.counts.sum() == 8
    assert hist.low == np.float32(-1e-20)


def test_zeros_of_either_sign_are_one_value():
    one, other = histogram(np.float32([-0.0, 0.0])), histogram(np.float32([0.0, -0.0]))

    assert repr(one.low) == repr(other.low) == "0.0"
    assert repr(one.high) == repr(other.high) == "0.0"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_where_it_was(bad):
    with pytest.raises(DataError, match="'conv1', calibration image 3: expected finite values"):
        histogram(np.float32([0, bad, 1]), where="'conv1', calibration image 3")


def test_a_tally_returns_the_extremes_of_each_array():
    tally = Tally()

    assert tally.add_(np.float32([3, -1]), Scratch()) == (-1, 3)
    assert tally.add_(np.float32([7]), Scratch()) == (7, 7)
    assert (tally.histogram.low, tally.histogram.high) == (-1, 7)


@given(x=hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-8, 8, width=32)), at=st.floats(-9, 9))
@settings(deadline=None)
def test_the_moments_are_those_of_the_values_to_within_a_bin(x, at):
    hist = histogram(x)
    below = x[x < at].astype(np.float64)
    near = int((np.abs(x.astype(np.float64) - at) <= 2 * hist.width).sum())

    s0, s1, s2 = (float(s[0]) for s in moments(hist).below(np.array([at])))

    assert abs(s0 - len(below)) <= near
    assert abs(s1 - below.sum()) <= len(x) * 2 * hist.width + 9 * near
    assert abs(s2 - (below**2).sum()) <= len(x) * 40 * hist.width + 81 * near


@pytest.mark.parametrize("share", [0.0001, 0.1, 0.5, 0.9, 0.9999, 1.0])
def test_quantiles_agree_with_numpy(share):
    x = np.random.default_rng(3).standard_normal(100_000).astype(np.float32)
    hist = histogram(x)

    assert moments(hist).quantile(share) == pytest.approx(np.quantile(x, share), abs=0.1 if share < 0.001 else 2e-2)
    assert moments_of_magnitudes(hist).quantile(share) == pytest.approx(np.quantile(np.abs(x), share), abs=2e-2)
