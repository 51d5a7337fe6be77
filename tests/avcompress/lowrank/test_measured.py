"""avcompress.lowrank.measured: what a clock does not confirm is left."""

import pytest

from avcompress.lowrank.candidates import find_candidates
from avcompress.lowrank.layers import find_layers
from avcompress.lowrank.measured import confirmed, faster_alone
from avcompress.lowrank.values import Choice
from avcompress.recipe_lowrank import Factorize


def names_of(network):
    return {node.name for node in network.graph.node}


@pytest.fixture(scope="module")
def candidates(small_net):
    """Some of each layer that can be taken apart, by its name."""
    rule = Factorize(kind="factorize", rank={"energy": 0.7}, align=2, fit="weight")
    found = {layer.name: find_candidates(layer, None, rule) for layer in find_layers(small_net)[0]}
    return {name: each for name, each in found.items() if not isinstance(each, str)}


def choices_of(candidates, saved_ms=1.0):
    return [Choice(each[0], 5.0, 5.0 - saved_ms) for each in candidates.values()]


def test_the_fastest_candidate_comes_first(small_net, candidates, mac_clock):
    found = faster_alone(small_net, candidates["q"], mac_clock, 0.05)

    assert [choice.ms_after for choice in found] == sorted(each.macs / 1e6 for each in candidates["q"])
    assert all(choice.ms_before == candidates["q"][0].into.layer.macs / 1e6 for choice in found)


def test_a_layer_whose_factors_are_slower_is_left_with_both_figures(small_net, candidates):
    def clock(networks):
        return tuple(1.0 if len(each.graph.node) == 1 else 1.5 for each in networks)

    found = faster_alone(small_net, candidates["q"], clock, 0.05)

    assert found == "no factors are faster: 1 ms, and 1.5 ms in their place"


def test_less_than_the_least_gain_is_none(small_net, candidates):
    def clock(networks):
        return tuple(1.0 if len(each.graph.node) == 1 else 0.96 for each in networks)

    assert isinstance(faster_alone(small_net, candidates["q"], clock, 0.05), str)
    assert isinstance(faster_alone(small_net, candidates["q"], clock, 0.03), tuple)


def clock_of(cost):
    """A network of 100 ms, and what each factorized layer adds to it."""

    def clock(networks):
        return tuple(
            100.0 + sum(ms for name, ms in cost.items() if f"{name}/first" in names_of(each)) for each in networks
        )

    return clock


def test_layers_that_the_network_confirms_are_all_kept_after_one_measurement(small_net, candidates):
    calls = []

    def clock(networks):
        calls.append(len(networks))
        return clock_of(dict.fromkeys(candidates, -0.9))(networks)

    choices = choices_of(candidates)

    assert confirmed(small_net, choices, clock) == tuple(choices)
    assert calls == [2]


@pytest.mark.parametrize("bad", ["a", "p", "q"])
def test_the_layer_that_slows_the_network_is_found_and_left(small_net, candidates, bad):
    cost = dict.fromkeys(candidates, -1.0) | {bad: 4.0}

    kept = confirmed(small_net, choices_of(candidates), clock_of(cost))

    assert [choice.layer for choice in kept] == [name for name in candidates if name != bad]


def test_where_the_network_confirms_nothing_nothing_is_kept(small_net, candidates):
    assert confirmed(small_net, choices_of(candidates), clock_of({})) == ()


def test_of_no_choices_none_are_kept(small_net):
    assert confirmed(small_net, [], clock_of({})) == ()
