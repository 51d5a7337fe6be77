"""Cross-layer equalization: consecutive layers share out their channels' ranges, without any data.

A channel that one layer computes small and the next one weighs heavily is rounded badly. Dividing it by a scale in the
first and multiplying it in the second changes nothing but the ranges; sqrt(r1 / r2) makes both equal, with r1 and r2
the channel's ranges in the first and in the second weight.

Source: Nagel et al., arXiv:1906.04721, sections 4.1.1 and 4.1.2; absorbed biases: 4.1.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.quant.channels.flow import Flow, Source, pads
from avcompress.quant.channels.scale import Editor, Floats, by_group, per_channel, response
from avcompress.recipe import Equalize
from avcompress.spec import Array, Artifact
from engines.norm_statistics import read_statistics
from engines.onnx_graph import check, fold_batch_norms, infer_shapes, is_weighted

_SETTLED = 0.01
"""Scales that change by less show nothing in eight bits."""
_LARGEST = 2.0**12
"""Of a channel's scale against the layer's mean one: what is all but dead stays so."""
_DEAD = 2.0**-20
"""Of the layer's largest range: what training has all but switched off."""
_SIGMAS = 3.0
"""Of a normal distribution: 99.87 % of the values lie above the mean less so many deviations."""


@dataclass(frozen=True)
class Pair:
    """Two layers of which the second alone reads the channels of the first; `tensor` is what it reads."""

    source: Source
    reader: onnx.NodeProto
    tensor: str


def equalize(artifact: Artifact, settings: Equalize) -> Artifact:
    """Equalize a float onnx.ModelProto; its batch norms are folded first.

    Through ReLU and its like the scales are folded into the weights; through other activations a multiplication per
    channel precedes the second layer, if `settings.explicit`. What the network computes stays, but for rounding and
    for the 0.13 % of values that an absorbed bias cuts off.
    """
    model = check(infer_shapes(fold_batch_norms(artifact.model)))
    pairs = [pair for pair in find_pairs(model) if pair.source.exact or settings.explicit]
    if not pairs:
        return replace(artifact, model=model, log=(*artifact.log, "equalize: no two layers that could share ranges"))
    ranges = _Ranges(model, pairs)
    scales, passes = ranges.equal_scales(settings.iterations)
    editor = Editor(model)
    for pair, scale in zip(pairs, scales, strict=True):
        _apply_(editor, pair, scale)
    absorbed = sum(_absorb_(editor, pair) for pair in pairs)
    line = _summary(pairs, passes, ranges.imbalance(_ones(scales)), ranges.imbalance(scales), absorbed)
    return replace(artifact, model=editor.model, log=(*artifact.log, line))


def _summary(pairs: Sequence[Pair], passes: int, before: float, after: float, absorbed: int) -> str:
    folded = sum(pair.source.exact for pair in pairs)
    biases = f"; {absorbed} high biases absorbed" if absorbed else ""
    return (
        f"equalize: {len(pairs)} pairs of layers, {folded} folded and {len(pairs) - folded} by a multiplication, "
        f"in {passes} passes; a channel's ranges in the two differ by a factor of up to {before:.4g} before and "
        f"{after:.4g} after{biases}"
    )


def _ones(scales: Iterable[Floats]) -> list[Floats]:
    return [np.ones_like(scale) for scale in scales]


# --- pairs


def find_pairs(model: onnx.ModelProto) -> list[Pair]:
    """Every two layers of which the second alone reads the channels of the first, in graph order."""
    flow = Flow(model)
    found = []
    for node in model.graph.node:
        if is_weighted(node) and flow.is_carrier(node):
            source = flow.source(node.input[0])
            if source is not None and flow.same_channels(source, node):
                found.append(Pair(source, node, node.input[0]))
    return found


# --- scales


class _Ranges:
    """The largest magnitudes of the layers' weights by channel, and what scales make of them."""

    def __init__(self, model: onnx.ModelProto, pairs: Sequence[Pair]) -> None:
        flow = Flow(model)
        self._pairs = pairs
        self._magnitudes = {
            node.name: _magnitudes(node, numpy_helper.to_array(flow.constants[node.input[1]]))
            for pair in pairs
            for node in (pair.source.node, pair.reader)
            if is_weighted(node)
        }
        self._normal = {
            pair.source.node.name: _normal_range(pair.source.node, flow.constants)
            for pair in pairs
            if not is_weighted(pair.source.node)
        }
        self._read = {pair.reader.name: i for i, pair in enumerate(pairs)}
        self._fed = {pair.source.node.name: i for i, pair in enumerate(pairs) if pair.source.exact}

    def equal_scales(self, iterations: int) -> tuple[list[Floats], int]:
        """The scale of every pair's channels, (C,) each, and the number of passes over all pairs that it took."""
        scales = [np.ones(len(self.of(i, None)[1])) for i in range(len(self._pairs))]
        passes = 0
        largest = np.inf
        while passes < iterations and largest > _SETTLED:
            passes, largest = passes + 1, 0.0
            for i, scale in enumerate(scales):
                scales[i] = _bounded(scale * np.sqrt(_ratio(*self.of(i, scales))))
                largest = max(largest, float(np.abs(np.log(scales[i] / scale)).max()))
        return scales, passes

    def imbalance(self, scales: Sequence[Floats]) -> float:
        """The largest factor between a channel's ranges in the two layers of a pair."""
        ratios = [_ratio(*self.of(i, scales)) for i in range(len(self._pairs))]
        return float(max(np.exp(np.abs(np.log(ratio)).max()) for ratio in ratios))

    def of(self, index: int, scales: Sequence[Floats] | None) -> tuple[Floats, Floats]:
        """The ranges of a pair's channels in its first and in its second layer, with the scales applied."""
        pair = self._pairs[index]
        first = self._outputs(pair.source.node.name, scales)
        second = self._weights(pair.reader.name, scales, folded=True).max(axis=1).reshape(-1)
        return (first if scales is None else first / scales[index]), second

    def _outputs(self, name: str, scales: Sequence[Floats] | None) -> Floats:
        if name in self._normal:
            return self._normal[name]
        outputs: Floats = self._weights(name, scales, folded=False).max(axis=2).reshape(-1)
        return outputs

    def _weights(self, name: str, scales: Sequence[Floats] | None, folded: bool) -> Floats:
        """(groups, outputs, inputs), times the scale of the inputs, and by that of the outputs where it is `folded`."""
        weights = self._magnitudes[name]
        if scales is not None and name in self._read:
            weights = weights * scales[self._read[name]].reshape(len(weights), 1, -1)
        if scales is not None and folded and name in self._fed:
            weights = weights / scales[self._fed[name]].reshape(len(weights), -1, 1)
        return weights


def _magnitudes(node: onnx.NodeProto, weight: Array) -> Floats:
    magnitudes: Floats = np.abs(by_group(node, weight)).max(axis=3).astype(np.float64)
    return magnitudes


def _normal_range(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Floats:
    """What a batch norm's outputs reach: as trained they have the mean beta and the deviation gamma."""
    gamma, beta = (np.abs(numpy_helper.to_array(constants[name])).astype(np.float64) for name in node.input[1:3])
    reach: Floats = beta + _SIGMAS * gamma
    return reach


def _ratio(first: Floats, second: Floats) -> Floats:
    """The ranges' ratio; 1 for dead channels, which have no range to share."""
    alive = (first > first.max() * _DEAD) & (second > second.max() * _DEAD)
    return np.divide(first, second, out=np.ones_like(first), where=alive)


def _bounded(scale: Floats) -> Floats:
    middle = np.exp(np.log(scale).mean())
    bounded: Floats = np.clip(scale, middle / _LARGEST, middle * _LARGEST)
    return bounded


# --- the graph


def _apply_(editor: Editor, pair: Pair, scale: Floats) -> None:
    reader = editor.nodes[pair.reader.name]
    editor.multiply_inputs_(reader, scale)
    if pair.source.exact:
        editor.divide_outputs_(editor.nodes[pair.source.node.name], scale)
    else:
        factor = per_channel(reader, editor.constant(reader, 1), 1 / scale)
        editor.insert_mul_(pair.tensor, factor, [(reader.name, 0)])


def _absorb_(editor: Editor, pair: Pair) -> int:
    """Move what a channel holds nearly always from the first layer's bias to the second's; the number of channels.

    Through a ReLU, of channels whose mean is more than three deviations above zero, and where no padding with zeros
    follows, which would have to become something else.
    """
    source, reader = editor.nodes[pair.source.node.name], editor.nodes[pair.reader.name]
    statistics = read_statistics(source)
    if pair.source.between != ("Relu",) or statistics is None or pads(reader) or source.op_type == "MatMul":
        return 0
    floor = np.maximum(statistics.mean - _SIGMAS * statistics.std, 0).astype(np.float64)
    if not floor.any():
        return 0
    editor.shift_outputs_(source, -floor)
    editor.add_to_bias_(reader, response(reader, editor.constant(reader, 1), floor))
    return int(np.count_nonzero(floor))
