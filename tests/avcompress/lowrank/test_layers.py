"""avcompress.lowrank.layers: what can be taken apart, and the reasons of the rest."""

import numpy as np
import pytest
from onnx import helper

from avcompress.lowrank.forms import Extent
from avcompress.lowrank.layers import find_layers
from avcompress.spec import ModelError, RecipeError
from engines.onnx_graph import macs


def weight_of(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_a_convolution_is_read_with_its_geometry(conv_net):
    model = conv_net(weight_of(5, 4, 3, 2), np.ones(5), strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2])

    (layer,), left = find_layers(model)

    assert not left
    assert (layer.name, layer.shape, layer.source, layer.has_bias) == ("conv", (5, 4, 3, 2), "x", True)
    assert layer.extent == Extent((9, 8), (5, 7))
    assert layer.macs == macs(model)["conv"]


@pytest.mark.parametrize(
    ("group", "shape", "reason"), [(4, (4, 1, 3, 3), "depthwise convolution"), (2, (4, 2, 3, 3), "grouped convolution")]
)
def test_convolutions_by_group_are_left(conv_net, group, shape, reason):
    layers, (left,) = find_layers(conv_net(weight_of(*shape), group=group))

    assert not layers
    assert (left.layer, left.reason) == ("conv", reason)


def node_reason(network, node, constants, image):
    layers, left = find_layers(network([node], constants, image))
    assert not layers
    return left[0].reason


def test_a_transposed_convolution_is_left(network):
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up")

    reason = node_reason(network, node, {"w": weight_of(3, 4, 2, 2)}, (1, 3, 4, 4))

    assert reason == "transposed convolutions are not factorized"


def test_a_product_of_two_activations_is_left(network):
    node = helper.make_node("MatMul", ["x", "x"], ["y"], "attend")

    assert node_reason(network, node, {}, (1, 4, 4)) == "its second operand is not a constant weight"


def test_a_constant_times_an_activation_is_left(network):
    node = helper.make_node("MatMul", ["w", "x"], ["y"], "left")

    assert node_reason(network, node, {"w": weight_of(3, 4)}, (4, 5)) == "its second operand is not a constant weight"


def test_a_weight_of_a_batch_is_left(network):
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "batched")

    assert node_reason(network, node, {"w": weight_of(2, 4, 5)}, (2, 3, 4)) == "its weight has 3 dimensions"


def test_a_convolution_over_one_axis_is_left(network):
    node = helper.make_node("Conv", ["x", "w"], ["y"], "sound")

    assert node_reason(network, node, {"w": weight_of(5, 3, 3)}, (1, 3, 9)) == "its weight has 3 dimensions"


def test_a_transposed_first_operand_is_left(network):
    node = helper.make_node("Gemm", ["x", "w"], ["y"], "gemm", transA=1)

    assert node_reason(network, node, {"w": weight_of(4, 5)}, (4, 3)) == "its first operand is transposed"


def test_layers_that_share_a_weight_are_left(network):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w"], ["y"], "second", pads=[1] * 4),
    ]

    _, left = find_layers(network(nodes, {"w": weight_of(3, 3, 3, 3)}, (1, 3, 5, 5)))

    assert [each.reason for each in left] == ["it shares its weight"] * 2


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemms_weight_is_read_as_outputs_by_inputs(network, transposed):
    stored = weight_of(5, 4) if transposed else weight_of(4, 5)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], "gemm", transB=transposed)

    (layer,), _ = find_layers(network([node], {"w": stored}, (2, 4)))

    assert np.array_equal(layer.weight[:, :, 0, 0], stored if transposed else stored.T)
    assert layer.macs == 2 * 4 * 5


def test_a_product_over_many_positions_counts_them_all(network):
    (layer,), _ = find_layers(
        network([helper.make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": weight_of(4, 5)}, (2, 3, 4))
    )

    assert layer.macs == 2 * 3 * 4 * 5
    assert not layer.has_bias


def test_weights_count_as_the_batch_normalization_behind_them_scales_them(network):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["y"], "norm", epsilon=0.0),
    ]
    constants = {"w": np.ones((2, 3, 1, 1)), "gamma": [-6, 1], "beta": [0, 0], "mean": [1, 2], "var": [4, 1]}

    (layer,), _ = find_layers(network(nodes, constants, (1, 3, 4, 4)))

    assert np.allclose(layer.scale, [3, 1])
    assert np.allclose(layer.weight[:, :, 0, 0], [[3, 3, 3], [1, 1, 1]])


def test_a_normalization_that_is_not_the_only_reader_does_not_count(network):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["n"], "norm"),
        helper.make_node("Add", ["a", "n"], ["y"], "add"),
    ]
    constants = {"w": np.ones((2, 3, 1, 1)), "gamma": [6, 1], "beta": [0, 0], "mean": [1, 2], "var": [4, 1]}

    (layer,), _ = find_layers(network(nodes, constants, (1, 3, 4, 4)))

    assert np.array_equal(layer.scale, [1, 1])


def test_a_weight_that_is_not_finite_is_refused_by_name(conv_net):
    weight = weight_of(4, 3, 1, 1)
    weight[0, 0] = np.nan

    with pytest.raises(ModelError, match=r"layer 'conv': expected finite weights, got NaN or infinity in 'w'; export"):
        find_layers(conv_net(weight))


def test_patterns_choose_and_leave_layers_by_node_or_weight(small_net):
    layers, left = find_layers(small_net, ["a", "p", "q.*"], ["y"])

    assert [layer.name for layer in layers] == ["a", "p"]
    assert {each.layer: each.reason for each in left} == dict.fromkeys(["d", "q"], "the recipe leaves it out")


@pytest.mark.parametrize(("layers", "exclude"), [(["nothing"], []), (["*"], ["nothing"])])
def test_a_pattern_that_matches_nothing_is_an_error(small_net, layers, exclude):
    with pytest.raises(RecipeError, match=r"factorize.(layers|exclude): expected patterns that match"):
        find_layers(small_net, layers, exclude)


def test_a_network_without_weights_has_no_layers(network):
    assert find_layers(network([helper.make_node("Relu", ["x"], ["y"], "r")], {}, (1, 3, 4, 4))) == ((), ())
