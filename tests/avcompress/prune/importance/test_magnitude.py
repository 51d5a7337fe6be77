"""Importance by weights alone: magnitudes, scales of normalization, distances, chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.prune import Channel, Coupling, Group, Place
from avcompress.prune.importance import bn_scale, chance, fpgm, l1, l2
from avcompress.spec import ModelError
from engines.onnx_graph import fold_batch_norms

FIRST = [[1, -2], [0, 3], [4, 0]]
SECOND = [[1, 1, -1], [0, 2, 0]]
NORM = ("norm.scale", "norm.shift", "norm.mean", "norm.var")


def test_l1_sums_what_computes_a_channel_and_what_reads_it(chain, coupling):
    scores = l1(chain(FIRST, SECOND), coupling(3))["first"]

    # 3 + 1, 3 + 3, 4 + 1 of the mean of 5
    assert scores == pytest.approx([0.8, 1.2, 1.0])


def test_l2_sums_squares(chain, coupling):
    scores = l2(chain(FIRST, SECOND), coupling(3))["first"]

    # 5 + 1, 9 + 5, 16 + 1 of the mean of 37 / 3
    assert scores == pytest.approx(np.array([6, 14, 17]) / (37 / 3))


def test_a_network_and_the_same_with_normalization_folded_in_have_the_same_magnitudes(chain, coupling):
    network = chain(FIRST, SECOND, norm=([1, -2, 0.5], [0, 1, 0], [0, 0, 1], [4, 1, 0.25]))
    folded = fold_batch_norms(network)

    for criterion in (l1, l2, fpgm):
        scores = criterion(network, coupling(3, NORM))["first"]
        assert scores == pytest.approx(criterion(folded, coupling(3))["first"], rel=1e-6)
    # rows times 1/2, 2 and 1: 1.5 + 1, 6 + 3, 4 + 1
    assert l1(network, coupling(3, NORM))["first"] == pytest.approx(np.array([2.5, 9, 5]) / 5.5)


def test_a_channel_at_several_positions_counts_all_of_them(chain):
    channels = tuple(
        Channel((Place("first.weight", 0, (i, i + 2)), Place("second.weight", 1, (i, i + 2)))) for i in range(2)
    )
    coupled = Coupling((Group("first", ("first",), ("second",), channels),), (), {}, {}, {})

    scores = l1(chain([[1], [2], [4], [8]], [[0, 0, 0, 1]]), coupled)["first"]

    assert scores == pytest.approx(np.array([5, 11]) / 8)


def test_bn_scale_is_the_magnitude_of_the_scale(chain, coupling):
    network = chain(FIRST, SECOND, norm=([1, -2, 3], [9, 9, 9], [9, 9, 9], [9, 9, 9]))

    assert bn_scale(network, coupling(3, NORM))["first"] == pytest.approx([0.5, 1.0, 1.5])


def test_bn_scale_of_a_network_without_normalization_says_what_else_there_is(chain, coupling):
    with pytest.raises(ModelError, match=r"expected batch normalization .*got none.*choose l1, l2 or taylor"):
        bn_scale(chain(FIRST, SECOND), coupling(3))


def test_fpgm_sums_the_distances_of_the_filters(chain, coupling):
    scores = fpgm(chain([[0, 0], [3, 4], [0, 0]], SECOND), coupling(3))["first"]

    # distances 5 + 0, 5 + 5, 0 + 5, whatever reads them
    assert scores == pytest.approx(np.array([5, 10, 5]) / (20 / 3))


def test_fpgm_finds_the_filter_that_is_the_mean_of_the_others(chain, coupling):
    rng = np.random.default_rng(0)
    others = rng.normal(size=(6, 5))
    filters = np.vstack([others[:3], others.mean(0, keepdims=True), others[3:]])

    scores = fpgm(chain(filters, np.ones((2, 7))), coupling(7))["first"]

    assert scores.argmin() == 3


def test_a_group_of_zeros_has_scores_of_zero(chain, coupling):
    assert (l2(chain(np.zeros((3, 2)), np.zeros((2, 3))), coupling(3))["first"] == 0).all()


def test_groups_without_weights_have_no_scores(chain):
    places = tuple(Channel((Place("offset", 0, (i,)),)) for i in range(3))
    coupled = Coupling((Group("lonely", (), (), places),), (), {}, {}, {})

    assert l2(chain(FIRST, SECOND), coupled) == {}


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 99))
@settings(max_examples=25)
@pytest.mark.parametrize("criterion", [l1, l2, fpgm])
def test_the_unit_of_the_weights_does_not_matter(chain, coupling, criterion, scale, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(2, 5))

    before = criterion(chain(first, second), coupling(5))["first"]
    after = criterion(chain(first * scale, second * scale), coupling(5))["first"]

    assert after == pytest.approx(before, rel=1e-4)


@given(order=st.permutations(range(5)), seed=st.integers(0, 99))
@settings(max_examples=25)
@pytest.mark.parametrize("criterion", [l1, l2, fpgm])
def test_channels_in_another_order_have_their_scores_in_that_order(chain, coupling, criterion, order, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(2, 5))

    before = criterion(chain(first, second), coupling(5))["first"]
    after = criterion(chain(first[list(order)], second[:, list(order)]), coupling(5))["first"]

    assert after == pytest.approx(before[list(order)], rel=1e-6)


def test_chance_is_the_same_for_the_same_seed_and_differs_between_groups(coupling):
    a, again, b = (chance(coupling(8), seed)["first"] for seed in (1, 1, 2))
    other = chance(coupling(8, name="other"), 1)["other"]

    assert (a == again).all()
    assert (a != b).any()
    assert (a != other).any()
    assert ((a >= 0) & (a < 1)).all()
