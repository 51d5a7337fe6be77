"""avcompress.quant.analysis.analyze: a culprit is found, and a budget is kept."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from avcompress.quant.analysis.analyze import Budget, Subject, analyze
from avcompress.spec import Artifact, Batch, ModelError
from engines.in_memory import open_model
from engines.onnx_graph import copy, initializers
from validation.errors import ErrorAnalysis


def score(artifact: Artifact, batches: list[Batch]):
    """One minus the mean distance to the float network."""
    floats = [open_model(artifact.reference).run(None, dict(batch))[0] for batch in batches]

    def measure(model: onnx.ModelProto) -> float:
        session = open_model(model)
        got = [session.run(None, dict(batch))[0] for batch in batches]
        return 1 - float(np.mean([np.abs(f - g).mean() for f, g in zip(floats, got, strict=True)]))

    return measure


@pytest.fixture
def damaged(small_artifact: Artifact) -> Artifact:
    """The quantized network with a scale of Conv_2's weights that is far too coarse."""
    model = copy(small_artifact.model)
    constants = initializers(model)
    weights = numpy_helper.to_array(constants["wb_quantized"])
    coarse = (np.rint(weights / 40) * 40).astype(np.int8)
    constants["wb_quantized"].CopyFrom(numpy_helper.from_array(coarse, "wb_quantized"))
    return replace(small_artifact, model=model)


def test_the_damaged_layer_is_the_worst_by_every_measure(damaged: Artifact, small_batches: list[Batch]) -> None:
    subject = Subject(damaged, small_batches, score(damaged, small_batches))
    layers, splits = analyze(subject, Budget(1e6))
    by_name = {layer.name: layer for layer in layers}
    culprit, others = by_name.pop("Conv_2"), list(by_name.values())

    assert all(culprit.own_db < other.own_db and culprit.alone_db < other.alone_db for other in others)
    assert all(culprit.without_db > other.without_db and culprit.gain > other.gain for other in others)
    assert culprit.weights_db < culprit.activations_db
    split = {part.part: part for part in splits}
    assert split["weights"].output_db < split["activations"].output_db
    assert split["none"].metric == 1
    assert split["all"].metric == pytest.approx(subject.score(damaged.model))
    analysis = ErrorAnalysis(
        recipe="r", metric="m", images=4, sweep_images=4, budget_s=1, seconds=1, splits=splits, layers=layers
    )
    assert analysis.worst[0].name == "Conv_2"
    assert ErrorAnalysis.model_validate_json(analysis.model_dump_json()) == analysis


def test_without_time_the_one_pass_figures_are_there_and_the_rest_is_not(
    small_artifact: Artifact, small_batches: list[Batch]
) -> None:
    layers, splits = analyze(Subject(small_artifact, small_batches, lambda _: 1 / 0), Budget(0))

    assert [layer.name for layer in layers] == ["Conv_0", "Conv_2", "Conv_4"]
    assert all(layer.own_db is not None and layer.depth_db is not None for layer in layers)
    assert all(layer.alone_db is layer.without_db is layer.gain is None for layer in layers)
    assert all(split.metric is None and split.output_db for split in splits[:3])


def test_a_float_network_is_refused(small_net: onnx.ModelProto, small_batches: list[Batch]) -> None:
    with pytest.raises(ModelError, match="with quantized layers"):
        analyze(Subject(Artifact(small_net), small_batches, lambda _: 0.0), Budget(1))
