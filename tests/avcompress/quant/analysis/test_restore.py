"""avcompress.quant.analysis.restore: layers of a quantized network float again, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from avcompress.quant.analysis.restore import quantized_layers, restored
from avcompress.spec import Artifact, Batch
from engines.in_memory import open_model
from engines.onnx_graph import check, copy, initializers

LAYERS = ("Conv_0", "Conv_2", "Add_3", "Conv_4")


def run(model: onnx.ModelProto, batch: Batch) -> np.ndarray:
    return open_model(model).run(None, dict(batch))[0]


def test_the_quantized_layers_are_those_that_read_other_values(small_artifact: Artifact) -> None:
    assert quantized_layers(small_artifact.model, small_artifact.reference) == LAYERS
    assert quantized_layers(small_artifact.reference, small_artifact.reference) == ()


def test_all_layers_restored_give_the_float_network_back(small_artifact: Artifact, small_batches: list[Batch]) -> None:
    back = check(restored(small_artifact.model, small_artifact.reference, LAYERS))

    assert {node.op_type for node in back.graph.node} == {"Conv", "Relu", "Add"}
    for batch in small_batches:
        np.testing.assert_array_equal(run(back, batch), run(small_artifact.reference, batch))


def test_one_restored_layer_reads_float_weights_and_the_others_stay(small_artifact: Artifact) -> None:
    back = check(restored(small_artifact.model, small_artifact.reference, {"Conv_2"}))
    inputs = {node.name: list(node.input) for node in back.graph.node}

    assert inputs["Conv_2"] == ["r", "wb"]
    assert inputs["Conv_0"] == ["x_dequantized", "wa_dequantized", "ba"]
    assert inputs["Add_3"] == ["b", "r_dequantized"]  # the skip still reads the pair that both shared


@pytest.mark.parametrize(
    ("part", "kept"), [("weights", ["x_dequantized", "wa"]), ("activations", ["x", "wa_dequantized"])]
)
def test_a_part_of_a_layer_can_be_restored(small_artifact: Artifact, part: str, kept: list[str]) -> None:
    back = check(restored(small_artifact.model, small_artifact.reference, {"Conv_0"}, (part,)))

    assert next(list(node.input) for node in back.graph.node if node.name == "Conv_0") == [*kept, "ba"]


def test_a_bias_that_a_repair_changed_or_added_goes_back_with_the_weights(
    small_artifact: Artifact, small_batches: list[Batch]
) -> None:
    repaired = copy(small_artifact.model)
    initializers(repaired)["ba"].CopyFrom(numpy_helper.from_array(np.full(6, 9, np.float32), "ba"))
    repaired.graph.initializer.append(numpy_helper.from_array(np.full(6, 9, np.float32), "bb"))
    next(node for node in repaired.graph.node if node.name == "Conv_2").input.append("bb")

    back = check(restored(repaired, small_artifact.reference, LAYERS))
    activations = restored(repaired, small_artifact.reference, LAYERS, ("activations",))

    np.testing.assert_array_equal(run(back, small_batches[0]), run(small_artifact.reference, small_batches[0]))
    assert {"ba", "bb"} <= {name for node in activations.graph.node for name in node.input}
