"""Smoothing: the channels of an activation are brought to one range, and the weights that read them take it back.

A tensor with one INT8 scale rounds its small channels to nothing. Divided by a scale per channel they fill the range;
the layer's weights are multiplied by the same scale, which a depthwise convolution's scales per channel absorb at no
loss. The division is a multiplication behind the activation, in whose kernel it is computed, or is folded into the
layer before.

Source: SmoothQuant, Xiao et al., arXiv:2211.10438, equation 4, for matrix products; a depthwise layer's weights do not
limit the scale, so that it is the channel's range itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from avcompress.patterns import matched
from avcompress.quant.channels.clips import ChannelTally
from avcompress.quant.channels.flow import Flow, Source
from avcompress.quant.channels.scale import Editor, Floats, by_group, per_channel
from avcompress.recipe import Smooth
from avcompress.shots import shots
from avcompress.spec import Array, Artifact, Batch, DataError
from engines.onnx_graph import attribute, check, fold_batch_norms, infer_shapes, is_weighted

_DEAD = 2.0**-20
"""Of the tensor's largest range: what training has all but switched off."""
_SMALLEST = 2.0**-12
"""Of a channel's scale against the largest: what is all but dead would only be amplified noise."""


@dataclass(frozen=True)
class Site:
    """A tensor that is smoothed for some of its readers.

    Attributes:
        tensor: what they read as their first input.
        readers: names of the weighted nodes, in graph order.
        source: the layer that the scale is folded into; None where it is a multiplication.
        axis: of the channels.
    """

    tensor: str
    readers: tuple[str, ...]
    source: Source | None
    axis: int


def smooth(artifact: Artifact, settings: Smooth, batches: Iterable[Batch]) -> Artifact:
    """Smooth the inputs of layers of a float onnx.ModelProto; its batch norms are folded first, what it computes stays.

    Raises RecipeError when a pattern matches no layer that could be smoothed, DataError for the calibration images.
    """
    model = check(infer_shapes(fold_batch_norms(artifact.model)))
    sites = find_sites(model, settings.layers)
    if not sites:
        return replace(artifact, model=model, log=(*artifact.log, "smooth: no depthwise layers, nothing to do"))
    clips = channel_clips(model, sites, batches)
    editor = Editor(model)
    ratios = [_smooth_site_(editor, site, clips[site.tensor], settings.strength) for site in sites]
    layers = sum(len(site.readers) for site in sites)
    folded = sum(site.source is not None for site in sites)
    before, after = (max(ratio[i] for ratio in ratios) for i in (0, 1))
    line = (
        f"smooth: the inputs of {layers} layers, by {len(sites) - folded} multiplications and {folded} scales folded "
        f"into the layer before; the largest ratio between the ranges of a tensor's channels {before:.4g} before, "
        f"{after:.4g} after"
    )
    return replace(artifact, model=editor.model, log=(*artifact.log, line))


# --- which tensors


def find_sites(model: onnx.ModelProto, layers: Sequence[str]) -> list[Site]:
    """The tensors that the chosen layers read, in graph order; `layers` is "depthwise" or patterns."""
    flow = Flow(model)
    able = [node for node in model.graph.node if is_weighted(node) and flow.is_carrier(node)]
    able = [node for node in able if node.input[0] not in flow.constants]
    if layers == "depthwise":
        chosen = {node.name for node in able if is_depthwise(node, flow.constants[node.input[1]])}
    else:
        chosen = matched({n.name: (n.name, n.input[1], *n.output) for n in able}, layers, "smooth.layers")
    readers: dict[tuple[str, int], list[str]] = {}
    for node in able:
        if node.name in chosen:
            readers.setdefault((node.input[0], 1 if node.op_type.startswith("Conv") else -1), []).append(node.name)
    nodes = {node.name: node for node in able}
    return [
        Site(tensor, tuple(names), _foldable(flow, tensor, [nodes[name] for name in names]), axis)
        for (tensor, axis), names in readers.items()
    ]


def is_depthwise(node: onnx.NodeProto, weight: onnx.TensorProto) -> bool:
    """Whether every output channel of a convolution reads one input channel."""
    return node.op_type == "Conv" and attribute(node, "group", 1) != 1 and weight.dims[1] == 1


def _foldable(flow: Flow, tensor: str, readers: Sequence[onnx.NodeProto]) -> Source | None:
    source = flow.source(tensor, len(readers))
    if source is None or not source.exact or not all(flow.same_channels(source, node) for node in readers):
        return None
    return source


# --- how much


def channel_clips(model: onnx.ModelProto, sites: Sequence[Site], batches: Iterable[Batch]) -> dict[str, Floats]:
    """The clip of every channel, (C,), that rounds it best in INT8 by itself, over all images."""
    axes = {site.tensor: site.axis for site in sites}
    tallies: dict[str, ChannelTally] = {}
    for shot in shots(model, tuple(axes), batches):
        for tensor, axis in axes.items():
            values = _by_channel(shot.values[tensor], axis)
            if not np.isfinite(values).all():
                raise DataError(
                    f"{tensor!r}, {shot.where}: expected finite values, got NaN or infinity; check the image and the "
                    "network's weights"
                )
            tallies.setdefault(tensor, ChannelTally(len(values))).add_(values)
    return {tensor: tally.clips() for tensor, tally in tallies.items()}


def _by_channel(values: Array, axis: int) -> Array:
    """(C, positions)."""
    moved = np.moveaxis(values, axis, 0)
    return moved.reshape(len(moved), -1)


def scale_of(clips: Floats, weights: Floats | None, strength: float) -> Floats:
    """What each channel is divided by: clip**strength / weight**(1 - strength), at most 1.

    Args:
        clips: (C,), the channels' ranges; those of about 0 are dead, and get 1.
        weights: (C,), the largest |w| that meets a channel; None where the weights do not matter, as in depthwise ones.
        strength: SmoothQuant's alpha.
    """
    alive = _alive(clips) if weights is None else _alive(clips) & _alive(weights)
    scale = np.ones_like(clips)
    scale[alive] = clips[alive] ** strength
    if weights is not None:
        scale[alive] /= weights[alive] ** (1 - strength)
    if not alive.any():
        return scale
    scale /= scale[alive].max()
    return np.where(alive, np.maximum(scale, _SMALLEST), 1.0)


def _smooth_site_(editor: Editor, site: Site, clips: Floats, strength: float) -> tuple[float, float]:
    """Smooth one tensor; returns the ratio of its largest to its smallest live channel, before and after."""
    readers = [editor.nodes[name] for name in site.readers]
    scale = scale_of(clips, _weights(editor, readers), strength)
    for node in readers:
        editor.multiply_inputs_(node, scale)
    if site.source is not None:
        editor.divide_outputs_(editor.nodes[site.source.node.name], scale)
    else:
        factor = per_channel(readers[0], editor.constant(readers[0], 1), 1 / scale)
        editor.insert_mul_(site.tensor, factor, [(name, 0) for name in site.readers])
    live = _alive(clips)
    return _spread(clips[live]), _spread((clips / scale)[live])


def _weights(editor: Editor, readers: Sequence[onnx.NodeProto]) -> Floats | None:
    """The largest |w| that meets each channel in the readers that are not depthwise; None if all are."""
    full = [node for node in readers if not is_depthwise(node, editor.constants[node.input[1]])]
    if not full:
        return None
    amax = [np.abs(by_group(node, editor.constant(node, 1))).max(axis=(1, 3)).reshape(-1) for node in full]
    weights: Floats = np.max(amax, axis=0).astype(np.float64)
    return weights


def _alive(ranges: Floats) -> NDArray[np.bool_]:
    alive: NDArray[np.bool_] = ranges > ranges.max() * _DEAD
    return alive


def _spread(ranges: Floats) -> float:
    return float(np.max(ranges) / np.min(ranges)) if len(ranges) else 1.0
