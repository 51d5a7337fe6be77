"""avcompress.rewrite: rules are kept where they are faster, and of SiLUs only as many go as a speed-up takes."""

from collections import Counter

import numpy as np
import pytest
from onnx import helper

from avcompress.recipe_rewrite import Rewrite
from avcompress.rewrite import Means, rewrite

SIZES = {"wide": 1, "middle": 2, "narrow": 4}


def chain(graph):
    """Three SiLUs of 64, 16 and 4 values a channel, with slopes at the end."""
    nodes, tensor = [], "x"
    for name, stride in SIZES.items():
        nodes += [
            helper.make_node(
                "AveragePool", [tensor], [f"{name}_in"], name=f"{name}_pool", strides=[stride] * 2, kernel_shape=[1, 1]
            ),
            helper.make_node("Sigmoid", [f"{name}_in"], [f"{name}_gate"], name=f"{name}_sigmoid"),
            helper.make_node("Mul", [f"{name}_in", f"{name}_gate"], [f"{name}_out"], name=name),
        ]
        tensor = "x"
        last = f"{name}_out"
    nodes.append(helper.make_node("PRelu", [last, "slope"], ["y"], name="act"))
    return graph(nodes, {"slope": np.ones((3, 1, 1), np.float32)}, outputs=["y", "wide_out", "middle_out"])


TIME = {"wide": 6.0, "middle": 3.0, "narrow": 1.0}


def clock(networks):
    """10 ms, and what each SiLU that is left takes; slopes of three axes take 5."""
    found = []
    for network in networks:
        gates = {node.name.removesuffix("_sigmoid") for node in network.graph.node if node.op_type == "Sigmoid"}
        ranks = [len(t.dims) for t in network.graph.initializer if "slope" in t.name and used(network, t.name)]
        found.append(10 + sum(TIME[name] for name in gates) + 5 * (3 in ranks))
    return found


def used(network, name):
    return any(name in node.input for node in network.graph.node)


def means(cost=None):
    """Costs by the activation that is replaced."""

    def distance(_):
        def of(network):
            (name,) = (node.name for node in network.graph.node if node.op_type == "HardSwish")
            return (cost or {})[name]

        return of

    return Means(lambda _: True, clock, distance)


def stage(**settings):
    return Rewrite(kind="rewrite", **settings)


def test_a_rule_is_kept_where_the_network_is_faster_by_it(graph):
    (tried, nothing) = rewrite(chain(graph), stage(), means())

    assert (tried.rule, tried.nodes, tried.before_ms, tried.after_ms, tried.kept) == (
        "full_rank",
        ("act",),
        25,
        20,
        True,
    )
    assert (nothing.rule, nothing.nodes, nothing.kept) == ("strided_conv", (), False)
    assert nothing.after is tried.after


def test_a_rule_that_gains_too_little_leaves_the_network_as_it_was(graph):
    tried = rewrite(chain(graph), stage(min_gain=0.3), means())

    assert not tried[0].kept
    assert tried[1].before is tried[0].before


@pytest.mark.parametrize(
    ("speedup", "replaced"),
    [
        (1.2, ()),  # the slopes alone are enough
        (1.3, ("narrow",)),  # 25 / 1.3 = 19.2
        (1.5, ("middle", "narrow")),  # 16.7
        (2.0, ("wide", "middle", "narrow")),
        (9.0, ("wide", "middle", "narrow")),  # cannot be reached
    ],
)
def test_the_activations_that_cost_least_for_their_values_go_first(graph, speedup, replaced):
    cost = {"wide": 64.0, "middle": 8.0, "narrow": 1.0}  # by value: 1, 1/2, 1/4
    tried = rewrite(chain(graph), stage(rules=["full_rank", "hard_swish"], speedup=speedup), means(cost))

    assert tried[-1].nodes == replaced
    assert Counter(node.op_type for node in tried[-1].after.graph.node)["HardSwish"] == len(replaced)


def test_of_what_a_speed_up_needs_every_part_counts_however_little_it_gains(graph):
    cost = {"wide": 64.0, "middle": 8.0, "narrow": 1.0}
    tried = rewrite(chain(graph), stage(rules=["full_rank", "hard_swish"], speedup=1.3, min_gain=0.1), means(cost))

    assert [each.kept for each in tried] == [True, True]  # 25 -> 20 -> 19
    assert tried[-1].nodes == ("narrow",)


def test_an_expensive_activation_of_few_values_goes_last(graph):
    cost = {"wide": 1.0, "middle": 8.0, "narrow": 100.0}
    tried = rewrite(chain(graph), stage(rules=["full_rank", "hard_swish"], speedup=1.5), means(cost))

    assert tried[-1].nodes == ("wide",)


def test_the_network_given_is_not_changed(graph):
    network = chain(graph)
    before = network.SerializeToString()

    rewrite(network, stage(rules=["full_rank", "strided_conv", "hard_swish"]), means())

    assert network.SerializeToString() == before


def test_a_rule_named_twice_is_refused():
    with pytest.raises(ValueError, match="expected each rule once, got full_rank, full_rank; remove one"):
        stage(rules=["full_rank", "full_rank"])


def test_a_speed_up_of_exact_rules_is_refused():
    with pytest.raises(
        ValueError, match="expected hard_swish among rules with speedup, got full_rank, which are exact"
    ):
        stage(rules=["full_rank"], speedup=1.2)
