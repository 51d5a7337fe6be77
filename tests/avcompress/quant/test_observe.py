"""avcompress.quant.observe: statistics of a network's inner tensors."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from avcompress.quant import observe as module
from avcompress.quant.observe import network_digest, observe
from avcompress.recipe import Preprocess, SceneSource
from avcompress.spec import DataError, ModelError
from calibration import statistics
from calibration.batches import Batches, NamedBatch
from calibration.histogram import histogram
from calibration.source import open_source
from calibration.statistics import merge_statistics, preprocess_digest
from calibration.statistics_file import to_bytes
from engines.onnx_graph import infer_shapes


def relu_net(domain="", opset=17):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["a"], "relu", domain=domain), helper.make_node("Log", ["a"], ["y"], "log")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 4, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, 4, 5))],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def images(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3, 4, 5)).astype(np.float32)


def named(x, names):
    return [NamedBatch({"x": image[None]}, (name,)) for image, name in zip(x, names, strict=True)]


def test_the_histograms_are_those_of_all_images_together():
    x = images(4)

    found = observe(relu_net(), ["x", "a"], [{"x": x[:1]}, {"x": x[1:]}])

    for name, values in {"x": x, "a": np.maximum(x, 0)}.items():
        hist, expected = found.tensors[name].histogram, histogram(values)
        assert np.array_equal(hist.counts, expected.counts)
        assert (hist.exponent, hist.low, hist.high) == (expected.exponent, expected.low, expected.high)


def test_the_extremes_are_those_of_each_image_by_name():
    x = images(3)

    found = observe(relu_net(), ["x", "a"], named(x, "cab"))

    assert [image.name for image in found.images] == ["a", "b", "c"]
    for name, values in {"x": x, "a": np.maximum(x, 0)}.items():
        expected = [[values[i].min(), values[i].max()] for i in (1, 2, 0)]
        assert np.array_equal(found.tensors[name].extremes, expected)


def test_named_images_give_the_same_bytes_in_any_order_and_any_split():
    x = images(7) * np.float32([1, 100, 0.01, 3, 7, 0.5, 2])[:, None, None, None]
    batches = named(x, "abcdefg")

    at_once = to_bytes(observe(relu_net(), ["x", "a"], batches))

    assert to_bytes(observe(relu_net(), ["a", "x"], batches[::-1])) == at_once
    parts = {str(i): observe(relu_net(), ["x", "a"], batches[i::3]) for i in (2, 0, 1)}
    assert to_bytes(merge_statistics(parts)) == at_once


def test_no_more_extremes_are_held_than_the_window_asks_for(monkeypatch):
    for each in (module, statistics):
        monkeypatch.setattr(each, "WINDOW", 2)
    x = images(9)

    found = observe(relu_net(), ["x"], named(x, "ihgfedcba"))

    assert np.array_equal(found.tensors["x"].extremes, [[x[i].min(), x[i].max()] for i in (1, 0)])
    assert len(found.images) == 9


def test_images_without_a_name_are_numbered():
    found = observe(relu_net(), ["x"], [{"x": images(2)}])

    assert [image.name for image in found.images] == ["image 000000001", "image 000000002"]


def test_the_statistics_say_of_which_network_and_preprocessing_they_are():
    settings = Preprocess(size=(4, 5))
    source = open_source(SceneSource(format="scenes", count=2, size=(32, 48)), None, None)

    found = observe(relu_net(), ["x"], Batches(source, settings, "x"))

    assert found.network == network_digest(relu_net()) == network_digest(infer_shapes(relu_net()))
    assert found.network != network_digest(relu_net(opset=16))
    assert found.preprocess == preprocess_digest(settings)
    assert [image.name for image in found.images] == list(source.names)
    assert observe(relu_net(), ["x"], [{"x": images(1)}]).preprocess == ""


def test_notes_of_the_exporter_do_not_make_another_network():
    noted = relu_net()
    noted.graph.node[0].doc_string = "/home/someone/net.py"
    noted.graph.input[0].doc_string = "an image"
    noted.producer_version = "9"

    assert network_digest(noted) == network_digest(relu_net())
    assert noted.graph.node[0].doc_string
    noted.graph.node[0].op_type = "Neg"
    assert network_digest(noted) != network_digest(relu_net())


def test_a_generator_is_read_once_and_outputs_of_the_graph_can_be_observed():
    x = np.ones((1, 3, 4, 5), np.float32)

    assert observe(relu_net(), ["y"], ({"x": x} for _ in range(3))).tensors["y"].histogram.counts.sum() == 180


def test_an_empty_calibration_set_is_refused():
    with pytest.raises(DataError, match="expected at least one image, got none"):
        observe(relu_net(), ["a"], iter(()))


def test_a_value_that_is_not_finite_names_tensor_and_image():
    x = images(3)
    x[1, 0, 0, 0] = np.nan

    with pytest.raises(DataError, match="'x', calibration image 2: expected finite values"):
        observe(relu_net(), ["x"], [{"x": x}])
    with pytest.raises(DataError, match=r"'x', calibration image 2 \(b\.jpg\): expected finite values"):
        observe(relu_net(), ["x"], named(x, ["a.jpg", "b.jpg", "c.jpg"]))
    with pytest.raises(DataError, match="'y', calibration image 1"):  # the logarithm of zero
        observe(relu_net(), ["y"], [{"x": np.zeros((1, 3, 4, 5), np.float32)}])


def test_the_first_of_several_tensors_that_are_not_finite_is_named():
    model = relu_net()
    model.graph.node.append(helper.make_node("Neg", ["y"], ["z"], "neg"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 3, 4, 5)))

    with pytest.raises(DataError, match="'y', calibration image 1"):
        observe(model, ["x", "y", "z"], [{"x": np.zeros((1, 3, 4, 5), np.float32)}])


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="batch 1: expected 'x' of 3x4x5 an image, got 3x8x8"):
        observe(relu_net(), ["a"], [{"x": np.zeros((1, 3, 8, 8), np.float32)}])
    with pytest.raises(DataError, match="batch 1: expected the input 'x', got image"):
        observe(relu_net(), ["a"], [{"image": images(1)}])


def test_a_network_that_onnx_runtime_cannot_run_is_refused():
    with pytest.raises(ModelError, match=r"ONNX Runtime: expected a model it can run, got: .*Relu"):
        observe(relu_net("com.acme"), ["a"], [{"x": images(1)}])
