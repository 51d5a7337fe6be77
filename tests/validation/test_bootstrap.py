import math

import numpy as np
import pytest

from validation.bootstrap import basic, percentile, resample_weights


def test_every_resample_draws_as_many_images_as_there_are_and_a_seed_repeats_it():
    weights = resample_weights(50, 200, seed=3)
    assert weights.shape == (50, 200)
    assert (weights.sum(axis=0) == 50).all()
    assert (weights == resample_weights(50, 200, seed=3)).all()
    assert (weights != resample_weights(50, 200, seed=4)).any()
    # Poisson-like: each image is missed by about (1 - 1/50)^50 = 36.4 % of the resamples.
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)


def test_the_interval_holds_the_truth_as_often_as_it_claims():
    # Pooled recall of 120 images, each with its own number of objects: a ratio of sums, as all our figures are.
    rng = np.random.default_rng(0)
    truth, trials, covered, paired = 0.7, 400, 0, 0
    for trial in range(trials):
        objects = rng.integers(1, 9, 120)
        ease = rng.normal(0, 0.1, 120)  # objects of an image share its difficulty
        hits = rng.binomial(objects, np.clip(truth + ease, 0, 1))
        others = rng.binomial(objects, np.clip(truth + ease, 0, 1))
        weights = resample_weights(120, 300, seed=trial).astype(np.float64)
        recall, other = (hits @ weights) / (objects @ weights), (others @ weights) / (objects @ weights)
        found = percentile(hits.sum() / objects.sum(), recall, 0.9)
        covered += found.low <= truth <= found.high
        drop = percentile((hits - others).sum() / objects.sum(), recall - other, 0.9)
        paired += drop.low <= 0 <= drop.high
    # Binomial standard error: 1.5 %.
    assert 0.85 < covered / trials < 0.94
    assert 0.85 < paired / trials < 0.94


def test_percentiles_by_hand():
    found = percentile(0.5, np.arange(101) / 100, 0.9)
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(0.05), pytest.approx(0.95))


def test_an_interval_holds_its_own_figure():
    # Draws repeat images: average precision of duplicated boxes comes out better in nearly every one.
    samples = np.linspace(0.04, 0.06, 1000)
    above, below = percentile(0.07, samples, 0.95), percentile(0.03, samples, 0.95)
    assert (above.low, above.high) == (pytest.approx(0.0405), 0.07)
    assert (below.low, below.high) == (0.03, pytest.approx(0.0595))


def test_resamples_without_the_class_are_left_out_and_too_few_give_no_interval():
    samples = np.r_[np.linspace(0, 1, 1000), np.full(100, math.nan)]
    assert percentile(0.5, samples, 0.95).low == pytest.approx(0.025)
    few = percentile(0.5, np.r_[samples, np.full(20, math.nan)], 0.95)
    assert few.value == 0.5
    assert math.isnan(few.low)
    assert math.isnan(few.high)
    assert math.isnan(percentile(0.5, np.linspace(0, 1, 39), 0.95).low)
    assert percentile(0.5, np.linspace(0, 1, 40), 0.95).low > 0
    assert math.isnan(percentile(math.nan, samples, 0.95).low)


def test_the_basic_interval_is_the_percentile_interval_mirrored_at_the_figure() -> None:
    samples = np.linspace(0.30, 0.40, 101)  # a figure of 0.32 whose resamples are 0.03 too high on average

    found = basic(0.32, samples, 0.9)

    assert (found.value, found.low, found.high) == pytest.approx((0.32, 0.64 - 0.395, 0.64 - 0.305))


def test_the_basic_interval_holds_what_a_small_set_makes_too_high() -> None:
    # The largest of ten classes' recalls: as resamples make it higher than the set's, the set's is higher than 0.5.
    rng = np.random.default_rng(0)
    held = {percentile: 0, basic: 0}
    for seed in range(200):
        found = rng.random((40, 10)) < 0.5
        weights = np.hstack([np.ones((40, 1)), resample_weights(40, 200, seed)])
        largest = (found.T @ weights / 40).max(axis=0)
        for kind in held:
            interval = kind(float(largest[0]), largest[1:], 0.95)
            held[kind] += interval.low <= 0.5 <= interval.high

    assert held[percentile] < 20
    assert held[basic] > 120
