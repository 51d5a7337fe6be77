"""avcompress.quant.observe: histograms of a network's inner tensors."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from avcompress.quant.observe import observe
from avcompress.spec import DataError, ModelError
from calibration.ranges import histogram


def relu_net(domain=""):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["a"], "relu", domain=domain), helper.make_node("Log", ["a"], ["y"], "log")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 4, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, 4, 5))],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def images(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3, 4, 5)).astype(np.float32)


def test_the_histograms_are_those_of_all_images_together():
    x = images(4)

    found = observe(relu_net(), ["x", "a"], [{"x": x[:1]}, {"x": x[1:]}])

    for name, values in {"x": x, "a": np.maximum(x, 0)}.items():
        expected = histogram(values)
        assert np.array_equal(found[name].counts, expected.counts)
        assert (found[name].exponent, found[name].amax) == (expected.exponent, expected.amax)


def test_the_order_of_the_images_does_not_matter():
    x = images(5) * np.float32([1, 100, 0.01, 3, 7])[:, None, None, None]

    forth, back = (
        observe(relu_net(), ["a"], [{"x": x[i : i + 1]} for i in order])["a"] for order in (range(5), range(4, -1, -1))
    )

    assert np.array_equal(forth.counts, back.counts)


def test_a_generator_is_read_once_and_outputs_of_the_graph_can_be_observed():
    x = np.ones((1, 3, 4, 5), np.float32)

    assert observe(relu_net(), ["y"], ({"x": x} for _ in range(3)))["y"].counts.sum() == 180


def test_an_empty_calibration_set_is_refused():
    with pytest.raises(DataError, match="expected at least one image, got none"):
        observe(relu_net(), ["a"], iter(()))


def test_a_value_that_is_not_finite_names_tensor_and_image():
    x = images(3)
    x[1, 0, 0, 0] = np.nan

    with pytest.raises(DataError, match="'x', calibration image 2"):
        observe(relu_net(), ["x"], [{"x": x}])
    with pytest.raises(DataError, match="'y', calibration image 1"):  # the logarithm of zero
        observe(relu_net(), ["y"], [{"x": np.zeros((1, 3, 4, 5), np.float32)}])


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="batch 1: expected 'x' of 3x4x5 an image, got 3x8x8"):
        observe(relu_net(), ["a"], [{"x": np.zeros((1, 3, 8, 8), np.float32)}])
    with pytest.raises(DataError, match="batch 1: expected the input 'x', got image"):
        observe(relu_net(), ["a"], [{"image": images(1)}])


def test_a_network_that_onnx_runtime_cannot_run_is_refused():
    with pytest.raises(ModelError, match=r"ONNX Runtime: expected a model it can run, got: .*Relu"):
        observe(relu_net("com.acme"), ["a"], [{"x": images(1)}])
