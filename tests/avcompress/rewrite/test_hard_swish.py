"""avcompress.rewrite.hard_swish: what is replaced, and that factors in the weights change nothing."""

import numpy as np
import pytest
from onnx import helper

from avcompress.rewrite.hard_swish import hard_swish
from avcompress.spec import ModelError
from engines.onnx_graph import copy

SCALE = 1.2
RNG = np.random.default_rng(0)


def weight(out, inputs, size=1):
    return RNG.standard_normal((out, inputs, size, size)).astype(np.float32)


def silu(inner, outer, name):
    return [
        helper.make_node("Sigmoid", [inner], [f"{name}_gate"], name=f"{name}_sigmoid"),
        helper.make_node("Mul", [inner, f"{name}_gate"], [outer], name=name),
    ]


def layer(inner, outer, name):
    return helper.make_node("Conv", [inner, f"{name}_w", f"{name}_b"], [outer], name=name)


@pytest.fixture
def network(graph):
    """Two layers with SiLU beside each other, their concat and their sum, and a last layer that the output is of."""
    nodes = [
        layer("x", "a", "first"),
        *silu("a", "as", "swish_a"),
        layer("as", "b", "second"),
        *silu("b", "bs", "swish_b"),
        helper.make_node("Add", ["as", "bs"], ["sum"], name="sum"),
        helper.make_node("Concat", ["sum", "as"], ["both"], name="both", axis=1),
        helper.make_node("MaxPool", ["both"], ["pooled"], name="pool", kernel_shape=[2, 2]),
        layer("pooled", "y", "last"),
    ]
    sizes = {"first": (4, 3), "second": (4, 4), "last": (2, 8)}
    constants = {f"{name}_w": weight(*size) for name, size in sizes.items()}
    constants |= {f"{name}_b": RNG.standard_normal(size[0]).astype(np.float32) for name, size in sizes.items()}
    return graph(nodes, constants)


def as_defined(network, names, scale):
    """The same network with x -> HardSwish(scale · x) / scale in the place of SiLUs, and no other weights."""
    new = copy(network)
    nodes = []
    new.graph.initializer.append(helper.make_tensor("up", 1, [], [scale]))
    for node in new.graph.node:
        if node.name in names:
            (inner,) = (name for name in node.input if not name.endswith("_gate"))
            nodes += [
                helper.make_node("Mul", [inner, "up"], [f"{node.name}_up"]),
                helper.make_node("HardSwish", [f"{node.name}_up"], [f"{node.name}_hard"]),
                helper.make_node("Div", [f"{node.name}_hard", "up"], list(node.output)),
            ]
        else:
            nodes.append(node)
    kept = [copy_of(node) for node in nodes]
    del new.graph.node[:]
    new.graph.node.extend(kept)
    return new


def copy_of(node):
    new = type(node)()
    new.CopyFrom(node)
    return new


def test_hard_swish_of_scaled_inputs_is_nearer_to_silu_where_most_values_are():
    x = np.linspace(-6, 6, 1001)
    density = np.exp(-(x**2) / 2)

    def error(scale):
        hard = x * np.clip(scale * x / 6 + 0.5, 0, 1)
        return np.average(np.square(hard - x / (1 + np.exp(-x))), weights=density)

    assert error(SCALE) < 0.7 * error(1)


def test_the_layers_around_take_the_factors(network, answers):
    change = hard_swish(network, lambda _: True)

    kinds = [node.op_type for node in change.network.graph.node]
    assert change.nodes == ("swish_a", "swish_b")
    assert kinds == ["Conv", "HardSwish", "Conv", "HardSwish", "Add", "Concat", "MaxPool", "Conv"]
    assert change.factors == dict.fromkeys(["a", "as", "b", "bs", "sum", "both", "pooled"], SCALE)
    expected = answers(as_defined(network, change.nodes, SCALE))[0]
    np.testing.assert_allclose(answers(change.network)[0], expected, rtol=1e-4, atol=1e-5)


def test_an_activation_tied_to_one_that_stays_is_not_scaled(network, answers):
    change = hard_swish(network, lambda name: name == "swish_a")

    assert change.nodes == ("swish_a",)
    assert "Sigmoid" in [node.op_type for node in change.network.graph.node]
    np.testing.assert_allclose(
        answers(change.network)[0], answers(as_defined(network, change.nodes, 1.0))[0], atol=1e-5
    )


def test_the_networks_outputs_are_not_scaled(graph, answers):
    nodes = [layer("x", "a", "first"), *silu("a", "y", "swish")]
    network = graph(nodes, {"first_w": weight(4, 3), "first_b": np.zeros(4, np.float32)})

    change = hard_swish(network, lambda _: True)

    assert change.nodes == ("swish",)
    np.testing.assert_allclose(
        answers(change.network)[0], answers(as_defined(network, change.nodes, 1.0))[0], atol=1e-6
    )


def test_normalization_between_takes_factors_of_both_sides(graph, answers):
    nodes = [
        layer("x", "a", "first"),
        helper.make_node("BatchNormalization", ["a", "gain", "shift", "mean", "var"], ["n"], name="norm"),
        *silu("n", "s", "swish"),
        helper.make_node("BatchNormalization", ["s", "gain2", "shift2", "mean2", "var2"], ["y"], name="last"),
    ]
    constants = {"first_w": weight(4, 3), "first_b": np.zeros(4, np.float32)}
    for end in ("", "2"):
        constants |= {f"{name}{end}": RNG.standard_normal(4).astype(np.float32) for name in ("gain", "shift", "mean")}
        constants[f"var{end}"] = RNG.uniform(0.5, 2, 4).astype(np.float32)
    network = graph(nodes, constants)

    change = hard_swish(network, lambda _: True)

    expected = answers(as_defined(network, change.nodes, SCALE))[0]
    np.testing.assert_allclose(answers(change.network)[0], expected, rtol=1e-4, atol=1e-5)


def test_weights_that_two_layers_share_take_no_factor(graph, answers):
    nodes = [
        layer("x", "a", "same"),
        *silu("a", "as", "swish"),
        helper.make_node("Conv", ["as", "same_w", "same_b"], ["y"], name="again"),
    ]
    network = graph(nodes, {"same_w": weight(3, 3), "same_b": np.ones(3, np.float32)})

    change = hard_swish(network, lambda _: True)

    np.testing.assert_allclose(
        answers(change.network)[0], answers(as_defined(network, change.nodes, 1.0))[0], atol=1e-5
    )


def test_an_opset_without_hard_swish_is_refused(network):
    old = copy(network)
    old.opset_import[0].version = 13

    with pytest.raises(ModelError, match="hard_swish: expected opset 14 or later, got 13; export the network again"):
        hard_swish(old, lambda _: True)


def test_a_gate_of_something_else_is_no_silu(graph):
    nodes = [
        layer("x", "a", "first"),
        helper.make_node("Sigmoid", ["a"], ["g"], name="gate"),
        helper.make_node("Mul", ["x", "g"], ["y"], name="gated"),
    ]
    network = graph(nodes, {"first_w": weight(3, 3), "first_b": np.zeros(3, np.float32)})

    assert hard_swish(network, lambda _: True).nodes == ()
