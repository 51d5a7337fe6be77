"""avcompress.lowrank.speedup: the least error that makes the whole network so many times faster."""

import pytest

from avcompress.lowrank.candidates import Candidate
from avcompress.lowrank.forms import factor_shapes
from avcompress.lowrank.layers import find_layers
from avcompress.lowrank.speedup import reach
from avcompress.lowrank.surgery import Factorization
from avcompress.lowrank.values import Choice


@pytest.fixture(scope="module")
def gains(small_net):
    """By layer, two ways that save 30 and 10 ms alone; the error grows from layer to layer."""
    import numpy as np

    made = {}
    for number, layer in enumerate(find_layers(small_net)[0], start=1):
        ways = []
        for rank, saved, error in ((2, 30.0, 0.2), (4, 10.0, 0.05)):
            factors = tuple(np.ones(shape, np.float32) for shape in factor_shapes("svd", layer.shape, (rank,)))
            into = Factorization(layer, "svd", (rank,), factors)
            ways.append(Choice(Candidate(into, 1, error * number), 50.0, 50.0 - saved))
        made[layer.name] = tuple(ways)
    return made


EVEN = {"a": 1.0, "p": 1.0, "q": 1.0}


def clock_of(saved, share=1.0):
    """A network of 100 ms, of which the ways save a share of what they do alone."""

    def time_of(network):
        there = {node.name: node for node in network.graph.node}
        ranks = {item.name: item.dims[0] for item in network.graph.initializer}
        taken = [ranks[there[f"{name}/first"].input[1]] for name in saved if f"{name}/first" in there]
        return 100.0 - share * sum({2: 30.0, 4: 10.0}[rank] for rank in taken)

    return lambda networks: tuple(map(time_of, networks))


def picked(choices):
    return {choice.layer: choice.candidate.into.ranks[0] for choice in choices}


def test_the_way_of_least_error_is_taken_and_no_more(small_net, gains):
    assert picked(reach(small_net, gains, EVEN, 100 / 91, clock_of(gains))) == {"a": 4}
    assert picked(reach(small_net, gains, EVEN, 100 / 71, clock_of(gains))) == {"a": 2}


def test_an_error_counts_as_much_as_the_layer_weighs(small_net, gains):
    heavy = EVEN | {"a": 2.5}

    # 0.05 of a weigh 0.125, and 0.1 of p no more than that.
    assert picked(reach(small_net, gains, heavy, 100 / 91, clock_of(gains))) == {"p": 4}
    # 0.125 + 0.1 + 0.15 for 30 ms, where p alone loses 0.4 for them, and a weighs 0.5.
    assert picked(reach(small_net, gains, heavy, 100 / 71, clock_of(gains))) == {"a": 4, "p": 4, "q": 4}


def test_more_is_asked_for_where_the_network_saves_less_than_its_layers(small_net, gains):
    found = reach(small_net, gains, EVEN, 100 / 79, clock_of(gains, share=0.7))

    # 30 ms alone are 21 in the network.
    assert picked(found) == {"a": 2}
    assert picked(reach(small_net, gains, EVEN, 100 / 76, clock_of(gains, share=0.7))) == {"a": 2, "p": 4}


def test_a_layer_that_saves_nothing_in_the_network_is_replaced_by_others(small_net, gains):
    there = {name: ways for name, ways in gains.items() if name != "a"}

    assert picked(reach(small_net, gains, EVEN, 100 / 91, clock_of(there))) == {"p": 4}


def test_where_all_is_not_enough_all_that_gains_is_taken(small_net, gains):
    assert picked(reach(small_net, gains, EVEN, 50.0, clock_of(gains))) == {"a": 2, "p": 2, "q": 2}


def test_without_gains_nothing_is_chosen(small_net):
    assert reach(small_net, {}, {}, 1.5, clock_of({})) == ()
