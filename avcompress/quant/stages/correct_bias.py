"""Bias correction: what quantization adds to the mean of each output channel is taken out of the layer's bias.

Rounding is unbiased on the whole, but not for the few weights of one channel, least of all for the nine of a depthwise
one, and a clipped activation loses mass on one side only. The shift of a layer is measured on the float network's own
input, quantized for this layer alone: then all layers are measured in one pass, and each gives back what it added
itself. Shifts measured behind one another would count the first one's again in each that follows.

Source: Nagel et al., arXiv:1906.04721, section 4.2 and appendix D.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.quant.channels.means import dequantized_and_means
from avcompress.quant.channels.scale import Editor, Floats, response
from avcompress.quant.int8_layers import constant_bias
from avcompress.recipe import CorrectBias
from avcompress.shots import shots
from avcompress.spec import Artifact, Batch, DataError
from calibration.batches import spread
from engines.onnx_graph import attribute, copy, fresh, initializers, is_weighted, set_nodes_, use_counts
from engines.opset import at_opset

_AXES_ARE_AN_INPUT = 18
"""From this opset on ReduceMean has its axes as an input."""


@dataclass(frozen=True)
class Layer:
    """A weighted layer with quantized operands.

    Attributes:
        node: of the quantized network.
        original: of the float network.
    """

    node: onnx.NodeProto
    original: onnx.NodeProto


def correct_bias(artifact: Artifact, settings: CorrectBias, batches: Iterable[Batch]) -> Artifact:
    """Correct the biases of the quantized layers of an Artifact that has its float reference; missing ones are added.

    Some of `batches`, spread over them, are gone through once, and only by the empirical method.
    Raises DataError for the calibration images.
    """
    layers = quantized_layers(artifact)
    able = [layer for layer in layers if _has_bias(layer.node, initializers(artifact.model))]
    left = [f"{len(layers) - len(able)} without a constant bias to correct"] if len(able) < len(layers) else []
    if settings.method == "empirical":
        shifts = measured_shifts(artifact, able, spread(batches, settings.images))
    else:
        shifts = expected_shifts(artifact, able)
        unknown = len(able) - len(shifts)
        left += [f"{unknown} with an input of unknown distribution (no batch norm before it)"] if unknown else []
    editor = Editor(artifact.model)
    for name, shift in shifts.items():
        editor.add_to_bias_(editor.nodes[name], -shift)
    line = f"correct_bias: {len(shifts)} of {len(layers)} layers, {settings.method}; {_sizes(shifts)}"
    line += f"; left alone: {', '.join(left)}" if left else ""
    return replace(artifact, model=editor.model, log=(*artifact.log, line))


def _has_bias(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether the node has a constant bias, or may be given one."""
    if node.op_type == "MatMul" or not float(str(attribute(node, "beta", 1.0))):
        return False
    return len(node.input) < 3 or not node.input[2] or node.input[2] in constants


def _sizes(shifts: Mapping[str, Floats]) -> str:
    if not shifts:
        return "nothing to correct"
    mean = np.mean(np.concatenate([np.abs(shift) for shift in shifts.values()]))
    worst = max(shifts, key=lambda name: float(np.abs(shifts[name]).max()))
    return f"mean shift removed {mean:.3g} a channel, at most {np.abs(shifts[worst]).max():.3g}, in {worst!r}"


def quantized_layers(artifact: Artifact) -> list[Layer]:
    """The weighted layers that read other operands than in the float network, in graph order."""
    originals = {node.name: node for node in artifact.reference.graph.node}
    pairs = [
        Layer(node, originals[node.name])
        for node in artifact.model.graph.node
        if is_weighted(node) and node.name in originals
    ]
    return [layer for layer in pairs if list(layer.node.input[:2]) != list(layer.original.input[:2])]


# --- from images


def measured_shifts(artifact: Artifact, layers: Iterable[Layer], batches: Iterable[Batch]) -> dict[str, Floats]:
    """What each layer adds to the mean of its output channels, (C,), over all images and positions, by its name."""
    probe, means = _probe(artifact, layers)
    if not means:
        return {}
    sums = {name: np.zeros(1) for name in means}
    images = 0
    for shot in shots(probe, tuple(means.values()), batches, optimize=False):
        images += 1
        for name, tensor in means.items():
            if not np.isfinite(shot.values[tensor]).all():
                raise DataError(
                    f"layer {name!r}, {shot.where}: expected finite values, got NaN or infinity; check the image and "
                    "the network's weights"
                )
            sums[name] = sums[name] + shot.values[tensor]
    return {name: total / images for name, total in sums.items()}


def _probe(artifact: Artifact, layers: Iterable[Layer]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The float network with every quantized layer beside it, and the tensors with the mean of what it adds."""
    opset = next(o.version for o in artifact.model.opset_import if o.domain in {"", "ai.onnx"})
    new = copy(at_opset(artifact.reference, opset, "the format of the quantized values"))
    quantizers = _Quantizers(artifact)
    taken = {*use_counts(new), *use_counts(artifact.model), *(o for n in new.graph.node for o in n.output)}
    constants, own = initializers(new), initializers(artifact.model)
    nodes, means = list(new.graph.node), dict[str, str]()
    for layer in layers:
        nodes += quantizers.before(layer.node)
        twin = onnx.NodeProto()
        twin.CopyFrom(layer.node)
        twin.name = twin.output[0] = fresh(f"{layer.node.name}.quantized", taken)
        if len(twin.input) > 2 and twin.input[2] in constants:  # of the same name, but maybe not of the same values
            bias = numpy_helper.from_array(numpy_helper.to_array(own[twin.input[2]]), fresh(twin.input[2], taken))
            new.graph.initializer.append(bias)
            twin.input[2] = bias.name
        added, mean = (fresh(f"{layer.node.name}.{suffix}", taken) for suffix in ("added", "mean"))
        difference = helper.make_node("Sub", [twin.output[0], layer.original.output[0]], [added], added)
        axes = _mean_axes(len(constants[layer.original.input[1]].dims))
        nodes += [twin, difference, _mean(added, mean, axes, opset)]
        means[layer.node.name] = mean
    new.graph.initializer.extend(t for t in artifact.model.graph.initializer if t.name not in constants)
    new.graph.initializer.extend(_mean_axes(rank) for rank in range(2, 6))
    set_nodes_(new, nodes)
    return new, means


def _mean_axes(rank: int) -> onnx.TensorProto:
    """All axes but the channels'."""
    return numpy_helper.from_array(np.array([0, *range(2, rank)], np.int64), f"mean_axes_of_rank_{rank}")


def _mean(tensor: str, mean: str, axes: onnx.TensorProto, opset: int) -> onnx.NodeProto:
    if opset >= _AXES_ARE_AN_INPUT:
        return helper.make_node("ReduceMean", [tensor, axes.name], [mean], mean, keepdims=0)
    values = numpy_helper.to_array(axes).tolist()
    return helper.make_node("ReduceMean", [tensor], [mean], mean, keepdims=0, axes=values)


class _Quantizers:
    """The nodes that quantization put into a network, each given out once."""

    def __init__(self, artifact: Artifact) -> None:
        known = {output for node in artifact.reference.graph.node for output in node.output}
        self._producer = {
            output: node for node in artifact.model.graph.node for output in node.output if output not in known
        }

    def before(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Those that a node's operands come from, in order."""
        return [added for name in node.input for added in self._chain(name)]

    def _chain(self, tensor: str) -> Iterator[onnx.NodeProto]:
        node = self._producer.pop(tensor, None)
        if node is not None:
            for name in node.input:
                yield from self._chain(name)
            yield node


# --- from batch norms


def expected_shifts(artifact: Artifact, layers: Iterable[Layer]) -> dict[str, Floats]:
    """What each layer is expected to add to its output channels, (C,), where its input's distribution is known.

    The input of a layer behind a batch norm is that norm's normal distribution, taken through the activation between;
    what its quantization does to the mean is part of it. Padding with zeros is left out of account.
    """
    layers = list(layers)
    wanted = [name for layer in layers for name in (layer.original.input[0], *layer.node.input[:2])]
    known = dequantized_and_means(artifact.model, wanted)
    weights = {t.name: numpy_helper.to_array(t) for t in artifact.reference.graph.initializer}
    shifts = {}
    for layer in layers:
        data, weight = layer.node.input[:2]
        before, original = layer.original.input[0], layer.original.input[1]
        if data not in known or before not in known:
            continue
        quantized = response(layer.node, known[weight] if weight in known else weights[weight], known[data])
        added = quantized - response(layer.original, weights[original], known[before])
        shifts[layer.node.name] = added * float(str(attribute(layer.node, "alpha", 1.0))) + _given(artifact, layer)
    return shifts


def _given(artifact: Artifact, layer: Layer) -> Floats:
    """What the quantized layer's bias has more than the float one's: a shift of its input, or a repair, gave it."""
    biases = constant_bias(artifact.model, layer.node), constant_bias(artifact.reference, layer.original)
    return np.zeros(()) if biases[0] is None or biases[1] is None else np.asarray(biases[0] - biases[1])
