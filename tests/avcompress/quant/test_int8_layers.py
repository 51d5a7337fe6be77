"""avcompress.quant.int8_layers: what is found in a quantized graph, by its structure."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from avcompress.quant.int8_layers import int8_layers, read_grid, replace_constants
from avcompress.spec import Artifact, RecipeError
from engines.onnx_graph import initializers


def test_the_integers_times_the_scale_are_nearly_the_float_weight(small_artifact):
    stored, originals = initializers(small_artifact.model), initializers(small_artifact.reference)

    layers = int8_layers(small_artifact)

    assert [(layer.name, layer.float_weight, layer.output) for layer in layers] == [
        ("Conv_0", "wa", "a"),
        ("Conv_2", "wb", "b"),
        ("Conv_4", "wy", "y"),
    ]
    for layer in layers:
        integers = numpy_helper.to_array(stored[layer.weight.tensor])
        scale = layer.weight.broadcast(layer.weight.scale, integers.ndim)
        weight = numpy_helper.to_array(originals[layer.float_weight])
        assert integers.dtype == np.int8
        assert np.abs(integers * scale - weight).max() <= scale.max() / 2 * 1.001


def test_the_grid_of_the_input_is_that_of_the_parameters(small_artifact):
    by_source = {"Conv_0": "x", "Conv_2": "r", "Conv_4": "s"}

    for layer in int8_layers(small_artifact):
        assert layer.data.scale == np.float32(small_artifact.qparams[by_source[layer.name]].scale[0])
        assert (layer.data.zero_point, layer.data.qmin, layer.data.qmax) == (0, -128, 127)


def test_a_float_network_has_none_and_no_pattern_is_wrong_for_it(small_net):
    assert int8_layers(Artifact(small_net, reference=small_net), ("nothing",)) == ()


def test_patterns_match_nodes_weights_and_outputs(small_artifact):
    assert [layer.name for layer in int8_layers(small_artifact, ("wa", "y"))] == ["Conv_0", "Conv_4"]
    with pytest.raises(RecipeError, match="the nearest names are"):
        int8_layers(small_artifact, ("*", "Gemm_1"))


@pytest.mark.parametrize("scale", [np.float32(0.5), np.full(1, 0.5, np.float32)])
def test_one_scale_is_one_whatever_its_shape(scale):
    constants = {
        "s": numpy_helper.from_array(np.asarray(scale), "s"),
        "z": numpy_helper.from_array(np.full(np.shape(scale), 3, np.uint8), "z"),
    }

    grid = read_grid(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), constants)

    assert (grid.tensor, grid.axis, grid.qmin, grid.qmax) == ("q", None, 0, 255)
    assert grid.broadcast(grid.scale, 4).shape == ()
    assert grid.zero_point == 3


def test_scales_of_channels_broadcast_along_their_axis():
    constants = {
        "s": numpy_helper.from_array(np.arange(1, 4, dtype=np.float32), "s"),
        "z": numpy_helper.from_array(np.zeros(3, np.int8), "z"),
    }

    grid = read_grid(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"], axis=2), constants)

    assert grid.broadcast(grid.scale, 4).shape == (1, 1, 3, 1)


def test_other_integers_than_of_8_bits_are_no_grid():
    constants = {
        "s": numpy_helper.from_array(np.float32(1), "s"),
        "z": numpy_helper.from_array(np.int32(0), "z"),
    }

    assert read_grid(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]), constants) is None
    assert read_grid(helper.make_node("Relu", ["q"], ["x"]), constants) is None
    assert read_grid(helper.make_node("DequantizeLinear", ["q", "s"], ["x"]), constants) is None


def test_replaced_constants_keep_type_and_shape_and_the_model_stays(small_artifact):
    layer = int8_layers(small_artifact)[0]
    before = small_artifact.model.SerializeToString()

    new = replace_constants(small_artifact.model, {layer.weight.tensor: np.zeros(6 * 27)})

    value = numpy_helper.to_array(initializers(new)[layer.weight.tensor])
    assert (value.dtype, value.shape) == (np.int8, (6, 3, 3, 3))
    assert not value.any()
    assert small_artifact.model.SerializeToString() == before
