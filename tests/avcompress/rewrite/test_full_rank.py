"""avcompress.rewrite.full_rank: the same numbers from constants of as many axes as what they meet."""

import numpy as np
from onnx import helper

from avcompress.rewrite.full_rank import full_rank
from engines.onnx_graph import initializers

SLOPES = np.array([0.5, -0.25, 2.0], np.float32).reshape(3, 1, 1)


def test_slopes_get_an_axis_in_front_and_mean_the_same(graph, answers):
    network = graph([helper.make_node("PRelu", ["x", "slope"], ["y"], name="act")], {"slope": SLOPES})

    change = full_rank(network, lambda _: True)

    assert change.nodes == ("act",)
    (slope,) = initializers(change.network).values()
    assert tuple(slope.dims) == (1, 3, 1, 1)
    np.testing.assert_array_equal(answers(change.network)[0], answers(network)[0])


def test_a_constant_that_others_read_with_another_rank_stays_for_them(graph, answers):
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"], name="add"),
        helper.make_node("Reshape", ["c", "to"], ["r"], name="reshape"),
        helper.make_node("Mul", ["a", "r"], ["y"], name="mul"),
    ]
    network = graph(nodes, {"c": SLOPES, "to": np.array([1, 3, 1, 1])})

    change = full_rank(network, lambda _: True)

    assert change.nodes == ("add",)
    np.testing.assert_array_equal(answers(change.network)[0], answers(network)[0])


def test_a_constant_that_two_nodes_share_stays_shared(graph):
    nodes = [
        helper.make_node("PRelu", ["x", "slope"], ["a"], name="first"),
        helper.make_node("PRelu", ["a", "slope"], ["y"], name="second"),
    ]

    change = full_rank(graph(nodes, {"slope": SLOPES}), lambda _: True)

    assert change.nodes == ("first", "second")
    assert len(change.network.graph.initializer) == 1


def test_numbers_rows_and_what_may_not_change_stay(graph):
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["a"], name="scalar"),
        helper.make_node("Add", ["a", "row"], ["b"], name="row"),
        helper.make_node("PRelu", ["b", "slope"], ["y"], name="excluded"),
    ]
    constants = {"two": np.float32(2), "row": np.ones(8, np.float32), "slope": SLOPES}

    network = graph(nodes, constants)

    assert full_rank(network, lambda name: name != "excluded") == (network, (), {})
