"""On real constructions: channels that nobody reads are found, by every criterion that listens to the outputs."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from avcompress.onnx_import import import_onnx
from avcompress.prune import Coupling, channel_groups
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
from avcompress.prune.selection import Selection, select
from avcompress.prune.weights import ready, weights_of
from engines.onnx_graph import initializers

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LESSON = Lesson([(IMAGES, None)])
CHANNEL = 1


@pytest.fixture(params=["residual", "c2f", "bottleneck_se", "mobilenet_v2"])
def network(request, onnx_network) -> onnx.ModelProto:
    return onnx_network(request.param)


@cache
def _coupling(data: bytes) -> Coupling:
    return channel_groups(onnx.load_from_string(data))


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


@pytest.mark.parametrize("criterion", [gradient, taylor, fisher])
def test_a_channel_that_nobody_reads_is_the_least_important_of_its_group(network, criterion):
    coupling = _coupling(network.SerializeToString())
    planted = unread(network, coupling)

    scores = criterion(import_onnx(network), coupling, LESSON)

    assert planted
    for name in planted:
        assert scores[name][CHANNEL] == pytest.approx(0, abs=1e-12)
        assert scores[name].min() == scores[name][CHANNEL]


def test_every_criterion_says_something_of_every_group(network):
    coupling, module = _coupling(network.SerializeToString()), import_onnx(network)
    found = [criterion(network, coupling) for criterion in (l1, l2, fpgm)]
    found += [criterion(module, coupling, LESSON) for criterion in (gradient, taylor, fisher)]
    found.append(activation(module, coupling, LESSON.batches))

    for scores in found:
        check_scores(coupling, scores)
        assert scores.keys() == {group.name for group in coupling.groups}
        for scope in ("local", "global"):
            removed = select(coupling, scores, Selection(0.5, scope=scope))
            assert all(len(removed[name]) < len(scores[name]) for name in removed)


def test_scales_of_normalization_are_found_where_an_export_keeps_it(torch_network):
    from avcompress.export import to_onnx

    network = to_onnx(torch_network("residual"), (64, 64), keep_norms=True)
    coupling = channel_groups(network)

    scores = bn_scale(network, coupling)

    check_scores(coupling, scores)
    assert scores.keys() == {group.name for group in coupling.groups}
