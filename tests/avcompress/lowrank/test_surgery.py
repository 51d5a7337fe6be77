"""avcompress.lowrank.surgery: factors in a network compute what the weight that they stand for would."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from avcompress.lowrank.forms import FORMS, composed, factor_macs, factor_shapes
from avcompress.lowrank.layers import find_layers
from avcompress.lowrank.surgery import Factorization, alone, apply
from engines.norm_statistics import read_statistics, write_statistics_
from engines.onnx_graph import initializers, macs

METHODS = tuple(FORMS)


def random_parts(layer, method, rank, seed=0, shift=None):
    """Random factors, of a size that keeps the output near one."""
    ranks = (rank, rank + 1) if method == "tucker2" else (rank,)
    rng = np.random.default_rng(seed)
    factors = [rng.standard_normal(s).astype(np.float32) / 2 for s in factor_shapes(method, layer.shape, ranks)]
    return Factorization(layer, method, ranks, tuple(factors), shift)


def with_weight(model, layer, into):
    """The same network with one layer, whose weight is what the factors stand for."""
    new = type(model)()
    new.CopyFrom(model)
    weight = (composed(into.method, into.factors) / layer.scale[:, None, None, None]).astype(np.float32)
    node = next(node for node in new.graph.node if node.name == layer.name)
    stored = initializers(new)[node.input[1]]
    weight = weight if node.op_type == "Conv" else weight[:, :, 0, 0]
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    value = weight if node.op_type == "Conv" or transposed else weight.T
    stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), node.input[1]))
    return new


@settings(max_examples=40)
@given(data=st.data(), method=st.sampled_from(METHODS))
def test_factors_compute_what_the_convolution_of_their_weight_does(conv_net, run, data, method):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    low = 2 if method in {"spatial_svd", "cp"} else 1
    kernel, strides, dilations = ([draw(bottom, 3) for _ in range(2)] for bottom in (low, 1, 1))
    padding = data.draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    attributes = {"strides": strides}
    attributes |= {"pads": [draw(0, 3) for _ in range(4)]} if padding == "pads" else {"auto_pad": padding}
    attributes |= {} if padding.startswith("SAME") else {"dilations": dilations}  # ONNX Runtime has not both
    size, images = (draw(8, 12), draw(8, 12)), draw(1, 2)
    rng = np.random.default_rng(draw(0, 999))
    weight = rng.standard_normal((draw(1, 5), draw(1, 4), *kernel)).astype(np.float32)
    bias = rng.standard_normal(len(weight)) if data.draw(st.booleans()) else None
    model = conv_net(weight, bias, size, images, **attributes)
    (layer,), _ = find_layers(model)
    into = random_parts(layer, method, draw(1, 3))

    factorized = apply(model, [into])

    x = rng.standard_normal((images, weight.shape[1], *size)).astype(np.float32)
    assert np.allclose(run(factorized, x), run(with_weight(model, layer, into), x), atol=1e-4)
    assert sum(macs(factorized).values()) == factor_macs(method, layer.shape, into.ranks, layer.extent)


def test_nodes_and_constants_are_named_after_the_layer_and_the_output_stays(conv_net):
    model = conv_net(np.ones((4, 3, 3, 3)), np.ones(4))
    (layer,), _ = find_layers(model)

    factorized = {method: apply(model, [random_parts(layer, method, 2)]) for method in METHODS}

    names = {method: [node.name for node in each.graph.node] for method, each in factorized.items()}
    assert names == {
        "svd": ["conv/first", "conv/last"],
        "spatial_svd": ["conv/first", "conv/last"],
        "tucker2": ["conv/first", "conv/core", "conv/last"],
        "cp": ["conv/first", "conv/core/rows", "conv/core/columns", "conv/last"],
    }
    last = factorized["tucker2"].graph.node[-1]
    assert (list(last.input), list(last.output)) == (["y/core", "w/last", "b"], ["y"])
    assert set(initializers(factorized["tucker2"])) == {"w/first", "w/core", "w/last", "b"}


def test_names_that_are_taken_are_not_taken_twice(network, run):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Relu", ["a"], ["a/first"], "conv/first"),
        helper.make_node("Relu", ["a/first"], ["y"], "relu"),
    ]
    model = network(nodes, {"w": np.ones((4, 3, 1, 1))}, (1, 3, 5, 5))
    (layer,), _ = find_layers(model)

    factorized = apply(model, [random_parts(layer, "svd", 2)])

    assert [node.name for node in factorized.graph.node] == ["conv/first_1", "conv/last", "conv/first", "relu"]
    assert factorized.graph.node[0].output[0] == "a/first_1"


@pytest.mark.parametrize("has_bias", [True, False])
def test_what_the_output_lacks_in_the_mean_is_added_to_the_bias(conv_net, run, has_bias):
    model = conv_net(np.ones((3, 2, 3, 3)), np.array([1.0, 2, 3]) if has_bias else None)
    (layer,), _ = find_layers(model)
    shift = np.array([0.5, -1, 2], np.float32)
    x = np.random.default_rng(0).standard_normal((1, 2, 9, 8))

    plain, shifted = (run(apply(model, [random_parts(layer, "svd", 2, shift=s)]), x) for s in (None, shift))

    assert np.allclose(shifted - plain, shift[:, None, None], atol=1e-5)


def test_a_bias_that_others_use_is_not_changed(network, constant):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "conv"),
        helper.make_node("Conv", ["x", "v", "b"], ["c"], "other"),
        helper.make_node("Add", ["a", "c"], ["y"], "add"),
    ]
    constants = {"w": np.ones((2, 3, 1, 1)), "v": np.ones((2, 3, 1, 1)) * 2, "b": [1, 2]}
    model = network(nodes, constants, (1, 3, 4, 4))
    layer = find_layers(model)[0][0]

    factorized = apply(model, [random_parts(layer, "svd", 1, shift=np.ones(2, np.float32))])

    assert np.array_equal(constant(factorized, "b"), [1, 2])
    assert np.array_equal(constant(factorized, "b/shifted"), [2, 3])


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5)])
def test_a_gemm_keeps_its_factors_alpha_and_beta_and_its_bias(network, run, transposed, bias):
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((5, 6) if transposed else (6, 5))}
    constants |= {"b": rng.standard_normal(bias)} if bias else {}
    node = helper.make_node("Gemm", ["x", *constants], ["y"], "fc", transB=transposed, alpha=0.5, beta=2.0)
    model = network([node], constants, (3, 6))
    (layer,), _ = find_layers(model)
    shift = np.arange(5, dtype=np.float32) if bias != (1, 5) else None
    into = random_parts(layer, "svd", 2, shift=shift)
    x = rng.standard_normal((3, 6))

    # The shift is of the product, before alpha.
    expected = run(with_weight(model, layer, into), x) + (0.5 * shift if shift is not None else 0)

    assert np.allclose(run(apply(model, [into]), x), expected, atol=1e-5)
    assert layer.has_bias == (bias != (1, 5))


def test_a_product_over_many_positions_is_two_products(network, run):
    rng = np.random.default_rng(0)
    model = network([helper.make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": rng.standard_normal((6, 5))}, (2, 3, 6))
    (layer,), _ = find_layers(model)
    into, x = random_parts(layer, "svd", 2), rng.standard_normal((2, 3, 6))

    factorized = apply(model, [into])

    assert [node.op_type for node in factorized.graph.node] == ["MatMul", "MatMul"]
    assert np.allclose(run(factorized, x), run(with_weight(model, layer, into), x), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_batch_normalization_may_follow(network, run, method):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["y"], "norm"),
    ]
    rng = np.random.default_rng(0)
    norm = {"gamma": [-3, 0.1, 2, 1e-9], "beta": [1, 2, 3, 4], "mean": [0, 1, 0, 1], "var": [4, 1, 0.2, 1]}
    model = network(nodes, {"w": rng.standard_normal((4, 3, 3, 3)), **norm}, (1, 3, 7, 7))
    (layer,), _ = find_layers(model)
    into, x = random_parts(layer, method, 2), rng.standard_normal((1, 3, 7, 7))

    assert np.allclose(run(apply(model, [into]), x), run(with_weight(model, layer, into), x), atol=1e-4)


def test_what_batch_normalization_left_at_the_layer_goes_to_the_last_factor(conv_net):
    model = conv_net(np.ones((3, 2, 1, 1)))
    write_statistics_(model.graph.node[0], np.arange(3.0), np.ones(3))
    (layer,), _ = find_layers(model)

    first, last = apply(model, [random_parts(layer, "svd", 1)]).graph.node

    assert read_statistics(first) is None
    assert np.array_equal(read_statistics(last).mean, [0, 1, 2])


def test_the_network_itself_is_not_changed(small_net):
    before = small_net.SerializeToString()

    apply(small_net, [random_parts(layer, "svd", 2) for layer in find_layers(small_net)[0]])

    assert small_net.SerializeToString() == before


def test_a_layer_alone_computes_what_it_does_in_the_network(small_net, run):
    layer = find_layers(small_net, ["q"])[0][0]

    single = alone(small_net, layer)

    assert [node.name for node in single.graph.node] == ["q"]
    assert set(initializers(single)) == {"q.weight"}
    assert sum(macs(single).values()) == layer.macs
