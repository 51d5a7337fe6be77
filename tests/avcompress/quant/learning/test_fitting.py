"""avcompress.quant.learning.fitting: against every possible rounding, where there are few."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.quant.learning.fitting import Problem, learn_integers
from avcompress.quant.learning.moments import Moments


def problem(random, channels, width, qmax=7, groups=1):
    """Weights on a grid of few integers."""
    weight = random.standard_normal((groups, channels, width)).astype(np.float32)
    scale = np.broadcast_to(np.abs(weight).max(2, keepdims=True) / qmax, weight.shape)
    limits = [np.full(weight.shape, limit, np.float32) for limit in (-qmax, qmax)]
    return Problem(weight, scale, np.rint(weight / scale), *limits)


def moments(random, channels, width, groups=1, rows=200):
    """Correlated inputs, as activations are, and outputs that lack a little of them."""
    mix = random.standard_normal((groups, width, width)) + 1.5
    data = random.standard_normal((groups, rows, width)) @ mix
    lacking = 0.02 * random.standard_normal((groups, rows, channels)) + 0.01 * data[..., :1]
    return Moments(
        (data.transpose(0, 2, 1) @ data / rows).astype(np.float32),
        (lacking.transpose(0, 2, 1) @ data / rows).astype(np.float32),
        np.square(lacking).mean(1).astype(np.float32),
    )


def best_error(one, known):
    """The least error of each channel over all roundings up and down: brute force."""
    floor = np.floor(one.weight / one.scale)
    choices = itertools.product((0, 1), repeat=one.weight.shape[2])
    errors = [one.error(np.clip(floor + np.array(up), one.qmin, one.qmax).astype(np.float32), known) for up in choices]
    return np.min(errors, axis=0)


def test_two_weights_that_see_the_same_input_round_one_up_and_one_down():
    """0.5 + 0.5 steps make 1, which two roundings to nearest, half to even, make 0."""
    half = np.full((1, 1, 2), 0.5, np.float32)
    one = Problem(half, np.ones_like(half), np.zeros_like(half), half * 0 - 8, half * 0 + 7)
    known = Moments(np.ones((1, 2, 2), np.float32), np.zeros((1, 1, 2), np.float32), np.zeros((1, 1), np.float32))

    assert one.error(one.nearest, known) == pytest.approx(1)
    assert sorted(learn_integers(one, known, 200, 1e-2).reshape(-1).tolist()) == [0, 1]


def test_rounding_makes_up_for_what_the_inputs_lack():
    """The output lacks 0.3 of the input on average: the weight 0.2 becomes 1, not 0, once that is nearer."""
    w = np.full((1, 1, 1), 0.2, np.float32)
    one = Problem(w, np.ones_like(w), np.zeros_like(w), w * 0 - 8, w * 0 + 7)

    def known(lack):
        return Moments(np.ones((1, 1, 1), np.float32), np.full((1, 1, 1), lack, np.float32), np.full((1, 1), lack**2))

    assert learn_integers(one, known(0.2), 200, 1e-2).item() == 0
    assert learn_integers(one, known(0.4), 200, 1e-2).item() == 1


def test_learning_nearly_reaches_the_best_of_all_roundings():
    ratios, kept = [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        one, known = problem(random, 4, 10), moments(random, 4, 10)
        error = one.error(learn_integers(one, known, 300, 3e-2), known)
        ratios.append(error / best_error(one, known))
        kept.append(error / one.error(one.nearest, known))

    assert np.min(ratios) > 1 - 1e-3  # the oracle is one
    assert np.median(ratios) < 1.15
    assert np.mean(kept) < 0.5


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.integers(1, 3), width=st.integers(1, 9))
def test_every_integer_is_beside_its_weight_and_inside_the_limits(seed, groups, width):
    random = np.random.default_rng(seed)
    one = problem(random, 3, width, groups=groups)

    found = learn_integers(one, moments(random, 3, width, groups), 60, 3e-2)

    assert np.array_equal(found, np.rint(found))
    assert np.abs(found - one.weight / one.scale).max() < 1 + 1e-4
    assert (found >= one.qmin).all()
    assert (found <= one.qmax).all()


def test_dead_channels_and_dead_inputs_stay_finite():
    random = np.random.default_rng(0)
    one = problem(random, 3, 4)
    dead = one._replace(weight=one.weight * 0, nearest=one.nearest * 0)
    nothing = Moments(np.zeros((1, 4, 4), np.float32), np.zeros((1, 3, 4), np.float32), np.zeros((1, 3), np.float32))

    assert np.isfinite(learn_integers(dead, moments(random, 3, 4), 60, 1e-2)).all()
    assert np.abs(learn_integers(one, nothing, 60, 1e-2) - one.weight / one.scale).max() < 1 + 1e-4
