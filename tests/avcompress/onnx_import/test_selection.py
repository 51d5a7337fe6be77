"""avcompress.onnx_import: post-processing inside a graph is refused with the place to cut before it."""

import numpy as np
import pytest
from onnx import helper

from avcompress.float_network import with_output
from avcompress.onnx_import import import_onnx
from avcompress.spec import ModelError, RecipeError


def image(*shape):
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


@pytest.fixture
def detector(network):
    """One head for boxes and scores, as YOLOv8 has it: raw, transposed, split, and NMS on both parts."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"], "conv"),
        helper.make_node("Reshape", ["map", "flat"], ["raw"], "reshape"),
        helper.make_node("Transpose", ["raw"], ["rows"], "transpose", perm=[0, 2, 1]),
        helper.make_node("Split", ["rows", "parts"], ["boxes", "rest"], "split", axis=2),
        helper.make_node("Transpose", ["rest"], ["scores"], "back", perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["y"], "nms"),
    ]
    constants = {
        "w": image(6, 3, 1, 1),
        "flat": np.array([1, 6, 16]),
        "parts": np.array([4, 2]),
        "most": np.array([5]),
    }
    return network(nodes, {"x": image(1, 3, 4, 4)}, constants, ["y"])


def test_the_raw_predictions_before_nms_are_named(detector):
    with pytest.raises(
        ModelError,
        match=r"^node 'nms' \(NonMaxSuppression\): expected an operator that can be trained through, got one that "
        r"chooses among predictions; cut the network at its raw predictions, with model\.output: rows \(1, 16, 6\), or "
        r"raw \(1, 6, 16\)$",
    ):
        import_onnx(detector)


def test_the_network_that_is_cut_there_is_trained(detector, agree):
    cut = with_output(detector, "raw")

    module = agree(cut, {"x": image(1, 3, 4, 4)})

    assert [output.name for output in cut.graph.output] == ["raw"]
    assert [node.name for node in cut.graph.node] == ["conv", "reshape"]
    assert set(module.meta["parameters"]) == {"w"}


def test_a_tensor_that_is_not_there_is_refused(detector):
    with pytest.raises(RecipeError, match=r"^model\.output: expected one of the network's outputs, y, or a tensor ins"):
        with_output(detector, "gone")


def test_heads_that_are_never_joined_can_only_be_exported_again(network):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"], "conv"),
        helper.make_node("Reshape", ["map", "four"], ["boxes"], "boxes"),
        helper.make_node("Reshape", ["map", "flat"], ["scores"], "scores"),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["y"], "nms"),
    ]
    constants = {
        "w": image(4, 3, 1, 1),
        "four": np.array([1, 16, 4]),
        "flat": np.array([1, 4, 16]),
        "most": np.array([5]),
    }

    with pytest.raises(ModelError, match=r"predictions; export the network without its post-processing"):
        import_onnx(network(nodes, {"x": image(1, 3, 4, 4)}, constants, ["y"]))


def test_a_plugin_for_nms_is_told_as_one(detector):
    detector.graph.node[-1].op_type, detector.graph.node[-1].domain = "EfficientNMS_TRT", "TRT"

    with pytest.raises(
        ModelError, match=r"^node 'nms' \(EfficientNMS_TRT\): .* cut the network at its raw predictions"
    ):
        import_onnx(detector)
