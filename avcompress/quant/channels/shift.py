"""Shifted activations: what a zero point would give, without one.

Symmetric INT8 spends half its levels on values that SiLU or ReLU hardly take. A layer that reads x - m, with m the
middle of x's range, needs no zero point for the other half: W x + b = W (x - m) + (b + W m). The subtraction joins the
kernel that computes the activation; the bias takes the rest before anything runs. Only a layer without padding allows
it: a padded zero is a value of x, and would have to become -m.

What the bias of a quantized layer takes is m times its rounded weights, as a zero point would have it. With m times the
float ones, what rounding adds to the weights would meet x - m, whose mean is about -m, instead of x, whose mean is
near zero: a deeplab head of 11 shifted layers lost 4 dB to symmetric INT8 that way, and gains as much this way.

Source: Outlier Suppression+, Wei et al., arXiv:2304.09145, section 4.1, with one shift a tensor: that of a zero point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.quant.channels.flow import pads
from avcompress.quant.channels.scale import Editor, response
from avcompress.quant.placement.view import Site
from avcompress.recipe import Ptq
from avcompress.spec import Array, QuantParams, TensorRange
from calibration.mse import expected_error
from calibration.ranges import range_from
from calibration.statistics import TensorStatistics
from engines.onnx_graph import attribute, initializers
from engines.qdq import dequantize_array, quantize_array

_GAIN = 2.0
"""The least that the noise of rounding and clipping must fall by, for a subtraction to be worth its place."""


class Shifted(NamedTuple):
    """A tensor's middle, and the range of what is left when that is subtracted: even about zero."""

    middle: float
    range: TensorRange


def choose_shifts(
    model: onnx.ModelProto, sites: Iterable[Site], statistics: Mapping[str, TensorStatistics], settings: Ptq
) -> dict[str, Shifted]:
    """The tensors, by name, that only layers without padding read quantized, and whose noise falls to half at least."""
    nodes = {node.name: node for node in model.graph.node}
    constants = initializers(model)
    found = {}
    for site in sites:
        if all(_takes_shift(nodes[name], index, constants) for name, index in site.edges):
            shifted = _shifted(statistics[site.tensor], settings)
            if shifted is not None:
                found[site.tensor] = shifted
    return found


def _takes_shift(node: onnx.NodeProto, index: int, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a node's response to one value throughout is one value a channel, that its bias can take."""
    if index != 0 or node.op_type not in {"Conv", "Gemm"} or node.input[1] not in constants:
        return False
    if pads(node) or not float(str(attribute(node, "beta", 1.0))):
        return False
    bias = node.input[2] if len(node.input) > 2 else ""
    return not bias or (bias in constants and len(constants[bias].dims) == 1)


def _shifted(found: TensorStatistics, settings: Ptq) -> Shifted | None:
    with_zero_point = settings.model_copy(update={"activations": "asymmetric"})
    wide, narrow = range_from(found, settings), range_from(found, with_zero_point)
    before = expected_error(found.histogram, wide, settings)
    if expected_error(found.histogram, narrow, with_zero_point) * _GAIN > before:
        return None
    (low,), (high,) = narrow.low, narrow.high
    middle, half = float(np.float32((low + high) / 2)), (high - low) / 2
    return Shifted(middle, TensorRange((-half,), (half,)))


def shift(
    model: onnx.ModelProto, sites: Iterable[Site], shifts: Mapping[str, Shifted]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Subtract the middles before the layers that read these tensors; what the network computes stays.

    Returns: the network, and by tensor the name of what its sites now read.
    """
    editor = Editor(model)
    names = {}
    for site in sites:
        if site.tensor in shifts:
            middle = shifts[site.tensor].middle
            for name, _ in site.edges:
                node = editor.nodes[name]
                _give_back_(editor, node, editor.constant(node, 1), middle)
            names[site.tensor] = editor.insert_sub_(site.tensor, np.array(middle), site.edges)
    return editor.model, names


def give_back_rounding(
    model: onnx.ModelProto,
    reference: onnx.ModelProto,
    middles: Mapping[str, float],
    qparams: Mapping[str, QuantParams],
) -> onnx.ModelProto:
    """Give back the middles times what rounding has added to the weights, so that the biases hold W m as W is stored.

    Args:
        model: quantized.
        reference: the float network of `shift` that it was made from.
        middles: by name of the node that reads a shifted tensor.
        qparams: of the reference's weights, by name.
    """
    nodes = {node.name: node for node in reference.graph.node}
    constants = initializers(reference)
    editor = Editor(model)
    for name, middle in middles.items():
        weight = numpy_helper.to_array(constants[nodes[name].input[1]])
        params = qparams[nodes[name].input[1]]
        added = dequantize_array(quantize_array(weight, params), params) - weight
        _give_back_(editor, editor.nodes[name], added, middle)
    return editor.model


def _give_back_(editor: Editor, node: onnx.NodeProto, weight: Array, middle: float) -> None:
    """Add the response of a weight to the middle to a node's bias."""
    channels = weight.shape[1] * int(str(attribute(node, "group", 1)))
    if node.op_type == "Gemm":
        channels = weight.shape[1 if attribute(node, "transB", 0) else 0]
    alpha = float(str(attribute(node, "alpha", 1.0)))
    editor.add_to_bias_(node, alpha * response(node, weight, np.full(channels, middle)))
