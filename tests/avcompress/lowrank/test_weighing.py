"""avcompress.lowrank.weighing: what a layer's error does to the network's output."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.lowrank import weighing
from avcompress.lowrank.candidates import Candidate
from avcompress.lowrank.fitting import Aim, fitted
from avcompress.lowrank.forms import composed
from avcompress.lowrank.layers import find_layers
from avcompress.lowrank.surgery import Factorization
from avcompress.lowrank.values import Choice
from avcompress.lowrank.weighing import weigh

IMAGE = (1, 2, 1, 1)
ONES = np.ones(IMAGE, np.float32)
DIAGONAL = np.diag([2.0, 1.0])
"""Rank 1 leaves the first channel: of weights' squares 1 of 5 is lost."""


def gains_of(network, rank=1):
    """By layer, what is left of it at one rank."""
    found = {}
    for layer in find_layers(network)[0]:
        aim = Aim(layer.weight)
        factors = fitted(aim, "svd", (rank,))
        candidate = Candidate(Factorization(layer, "svd", (rank,), factors), 1, aim.error(composed("svd", factors)))
        found[layer.name] = (Choice(candidate, 2.0, 1.0),)
    return found


def test_weights_are_the_outputs_error_for_a_unit_of_the_layers(two_branches):
    """By hand: of ones y = 3 (2, 1) + (2, 1) = (8, 4), 80 in squares; p at rank 1 lacks (0, 3), q (0, 1)."""
    network = two_branches(DIAGONAL, (3.0, 1.0), IMAGE)

    weights = weigh(network, gains_of(network), [ONES])

    assert weights == pytest.approx({"p": 9 / 80 / 0.2, "q": 1 / 80 / 0.2}, rel=1e-4)


def test_the_fastest_choice_is_the_one_that_is_run(two_branches):
    network = two_branches(DIAGONAL, (3.0, 1.0), IMAGE)
    exact, coarse = gains_of(network, rank=2), gains_of(network)

    weights = weigh(network, {name: (*coarse[name], *exact[name]) for name in coarse}, [ONES])

    assert weights == pytest.approx(weigh(network, coarse, [ONES]))


@settings(max_examples=25, deadline=None)
@given(
    factors=st.tuples(st.floats(0.1, 8), st.floats(0.1, 8)),
    whole=st.floats(0.1, 50),
    seed=st.integers(0, 99),
)
def test_weights_grow_with_the_square_of_what_a_branch_is_multiplied_by_and_not_with_the_outputs_size(
    two_branches, factors, whole, seed
):
    random = np.random.default_rng(seed)
    images = [random.standard_normal((1, 4, 3, 3)).astype(np.float32)]
    weight = random.standard_normal((4, 4)) + np.eye(4)

    def weighed(times):
        network = two_branches(weight, [times * factor for factor in factors], (1, 4, 3, 3))
        return weigh(network, gains_of(network, rank=2), images)

    weights = weighed(1.0)

    assert weights["p"] / weights["q"] == pytest.approx((factors[0] / factors[1]) ** 2, rel=1e-2)
    assert weighed(whole) == pytest.approx(weights, rel=1e-2)


def test_a_choice_without_an_error_of_its_own_weighs_next_to_nothing(two_branches):
    network = two_branches(DIAGONAL, (3.0, 1.0), IMAGE)

    assert weigh(network, gains_of(network, rank=2), [ONES]) == pytest.approx({"p": 0, "q": 0}, abs=1e-4)


def test_how_many_networks_are_run_at_once_makes_no_difference(small_net, small_batches, monkeypatch):
    images, gains = [batch["x"] for batch in small_batches], gains_of(small_net, rank=4)
    together = weigh(small_net, gains, images)
    monkeypatch.setattr(weighing, "_TOGETHER", 2)

    assert list(together) == ["a", "p", "q"]
    assert weigh(small_net, gains, images) == together


def test_without_images_or_layers_there_is_nothing_to_weigh(two_branches):
    network = two_branches(DIAGONAL, (3.0, 1.0), IMAGE)

    assert weigh(network, gains_of(network), []) == {"p": 1.0, "q": 1.0}
    assert weigh(network, {}, [ONES]) == {}
