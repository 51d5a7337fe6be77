"""On real constructions: channels that nobody reads are found, by every criterion that listens to the outputs."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from avcompress.onnx_import import import_onnx
from avcompress.prune import Coupling
from avcompress.prune.importance import (
    Lesson,
    activation,
    bn_scale,
    check_scores,
    fisher,
    fpgm,
    gradient,
    l1,
    l2,
    taylor,
)
from avcompress.prune.importance.derivatives import gradients, weights_by_name
from avcompress.prune.importance.gates import gate_gradients
from avcompress.prune.importance.scores import along, lines
from avcompress.prune.selection import Selection, select
from avcompress.prune.weights import layers_of, ready, weights_of
from engines.onnx_graph import initializers

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LESSON = Lesson([(IMAGES, None)])
CHANNEL = 1


def unread(network: onnx.ModelProto, coupling: Coupling) -> list[str]:
    """Set what reads one channel of every group to 0, in place; the names of the groups."""
    constants = initializers(network)
    inputs = {(weight.tensor, weight.inputs) for weight in weights_of(ready(network)) if weight.groups == 1}
    found = []
    for group in coupling.groups:
        places = [place for place in group.channels[CHANNEL].places if (place.tensor, place.axis) in inputs]
        for place in places:
            stored = constants[place.tensor]
            values = numpy_helper.to_array(stored).copy()
            np.moveaxis(values, place.axis, 0)[list(place.positions)] = 0
            stored.CopyFrom(numpy_helper.from_array(values, stored.name))
        found += [group.name] if places else []
    return found


@pytest.mark.parametrize("name", ["residual", "c2f", "bottleneck_se", "mobilenet_v2"])
@pytest.mark.parametrize("criterion", [gradient, taylor, fisher])
def test_a_channel_that_nobody_reads_is_the_least_important_of_its_group(exported, coupled, name, criterion):
    network, coupling = exported(name), coupled(name)
    planted = unread(network, coupling)

    scores = criterion(import_onnx(network), coupling, LESSON)

    assert planted
    for group in planted:
        assert scores[group][CHANNEL] == pytest.approx(0, abs=1e-12)
        assert scores[group].min() == scores[group][CHANNEL]


@pytest.mark.parametrize("name", ["transposed_decoder", "shufflenet", "swin", "unet", "linear_attention"])
def test_the_gradient_of_a_gate_is_that_of_the_weights_that_read_the_channel(exported, coupled, name):
    """Of one image the sum of w g over all of them: another way to the same."""
    coupling, module = coupled(name), import_onnx(exported(name))
    lesson = Lesson([(IMAGES[:1], None)])
    weights = weights_by_name(module, {weight.tensor for weight, _ in layers_of(module)})
    inputs = {(weight.tensor, weight.inputs) for weight, _ in layers_of(module)}
    outputs = {(weight.tensor, weight.outputs) for weight, _ in layers_of(module)}
    products = {
        tensor: (weights[tensor] * grad).detach().double().numpy()
        for tensor, grad in next(gradients(module, weights, lesson)).items()
    }

    found = next(gate_gradients(module, coupling, lesson))

    assert found
    for group in coupling.groups:
        own = [line for line in lines(group) if (line.tensor, line.axis) in inputs]
        # Queries and keys, which no weights read, here without biases: either of the two.
        own = own or [line for line in lines(group) if (line.tensor, line.axis) in outputs][:1]
        expected = np.sum([line.by_channel(along(products[line.tensor], line.axis)) for line in own], axis=0)
        assert found[group.name][0] == pytest.approx(expected, rel=1e-3, abs=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["c2f", "mobilenet_v2", "attention"])
def test_every_criterion_says_something_of_every_group(exported, coupled, name):
    network, coupling = exported(name), coupled(name)
    module = import_onnx(network)
    found = [criterion(network, coupling) for criterion in (l1, l2, fpgm)]
    found += [criterion(module, coupling, LESSON) for criterion in (gradient, taylor, fisher)]
    found.append(activation(module, coupling, LESSON.batches))

    for scores in found:
        check_scores(coupling, scores)
        assert scores.keys() == {group.name for group in coupling.groups}
        for scope in ("local", "global"):
            removed = select(coupling, scores, Selection(0.5, scope=scope))
            assert all(len(removed[name]) < len(scores[name]) for name in removed)


def test_scales_of_normalization_are_found_where_an_export_keeps_it(exported, coupled):
    coupling = coupled("residual", keep_norms=True)

    scores = bn_scale(exported("residual", keep_norms=True), coupling)

    check_scores(coupling, scores)
    assert scores.keys() == {group.name for group in coupling.groups}
