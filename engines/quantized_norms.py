"""Batch norms behind convolutions whose weights are quantized already: folded by rescaling the weights' ranges.

A network that was quantized while it still had batch norms, as quantization-aware training exports it, has them between
INT8 convolutions and their activations, where they keep TensorRT from fusing. The norm's factor goes into the scales,
so that the integers, and with them what was trained or calibrated, stay: no weight is rounded again.

Source: Jacob et al., arXiv:1712.05877, section 3.2, has the factor in the weights before they are quantized; a scale
per channel takes it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.spec import Array, QuantParams
from engines.onnx_graph import (
    attribute,
    check,
    copy,
    drop_unused,
    fresh,
    infer_shapes,
    is_standard,
    set_nodes_,
    use_counts,
)
from engines.qdq import LIMITS, QdqSite, constant_values, qdq_sites, quantize_array

_INTEGERS = frozenset({"int8", "uint8"})


def rescale(params: QuantParams, factor: Array, axis: int) -> QuantParams:
    """The parameters of a weight whose output channels are multiplied by a factor: the scales take its magnitude.

    One scale for all becomes one a channel. A channel multiplied by 0 keeps its scale.

    Args:
        params: per tensor, or per channel along `axis`.
        factor: (C,).
        axis: the output channels'.

    Raises ValueError for parameters along another axis, or in blocks.
    """
    if params.block_size is not None or params.axis not in {None, axis}:
        raise ValueError(f"scales: expected one for all, or one a channel on axis {axis}, got axis {params.axis}")
    magnitude = np.where(np.asarray(factor) == 0, 1.0, np.abs(factor))
    scale = np.maximum(np.array(params.scale) * magnitude, np.finfo(np.float32).tiny).astype(np.float32)
    zero_point = np.broadcast_to(np.array(params.zero_point), scale.shape)
    return QuantParams(tuple(scale.tolist()), tuple(zero_point.tolist()), params.dtype, axis)


def fold_quantized_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold a BatchNormalization into the Conv or ConvTranspose with quantized weights before it.

    The scales take the factor's magnitude, the integers its sign, the bias the rest; a missing bias is added, one that
    is stored as integers becomes float. A norm stays where something else reads the convolution or its weight, and
    where a weight of -128 would have to become 128. Weights of float32 with Q and DQ are stored as integers then.
    """
    new = copy(model)
    facts = _Facts(new)
    folded: set[str] = set()
    for norm in new.graph.node:
        fold = _fold(norm, facts)
        if fold is not None:
            _apply_(new, fold, facts)
            fold.conv.output[0] = norm.output[0]
            folded.add(norm.name)
    set_nodes_(new, [node for node in new.graph.node if node.name not in folded])
    return check(infer_shapes(drop_unused(new)))


class _Facts:
    """What is known of a graph while its norms are folded."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants: Mapping[str, Array] = constant_values(model)
        self.uses = use_counts(model)
        self.producer = {output: node for node in model.graph.node for output in node.output}
        self.sites = {site.output: site for site in qdq_sites(model) if site.constant}
        self.taken = {*self.uses, *self.constants, *self.producer}


@dataclass(frozen=True)
class _Fold:
    """One norm that can be folded: the new integers, parameters and bias of the convolution before it."""

    conv: onnx.NodeProto
    integers: Array
    params: QuantParams
    bias: Array


def _fold(norm: onnx.NodeProto, facts: _Facts) -> _Fold | None:
    if norm.op_type != "BatchNormalization" or not is_standard(norm) or attribute(norm, "training_mode", 0):
        return None
    conv = facts.producer.get(norm.input[0])
    if conv is None or not _foldable(conv, norm, facts):
        return None
    gamma, beta, mean, var = (facts.constants[name].astype(np.float64) for name in norm.input[1:5])
    factor = gamma / np.sqrt(var + float(str(attribute(norm, "epsilon", 1e-5))))
    bias = _bias(conv, facts)
    site, axis = facts.sites[conv.input[1]], _output_axis(conv)
    if bias is None or site.params is None or site.params.axis not in {None, axis}:
        return None
    integers = _signed(_integers(site, site.params, facts), site.params, factor, axis)
    if integers is None:
        return None
    new_bias = ((bias - mean) * factor + beta).astype(facts.constants[norm.input[2]].dtype)
    return _Fold(conv, integers, rescale(site.params, factor, axis), new_bias)


def _foldable(conv: onnx.NodeProto, norm: onnx.NodeProto, facts: _Facts) -> bool:
    """Whether only this norm, with constants, reads a convolution that alone reads its weight, integers on one grid."""
    site = facts.sites.get(conv.input[1]) if len(conv.input) > 1 else None
    return (
        is_standard(conv)
        and (conv.op_type == "Conv" or (conv.op_type == "ConvTranspose" and attribute(conv, "group", 1) == 1))
        and facts.uses[conv.output[0]] == 1
        and all(name in facts.constants for name in norm.input[1:5])
        and site is not None
        and facts.uses[site.output] == 1
        and site.params is not None
        and site.params.dtype in _INTEGERS
        and site.params.block_size is None
    )


def _output_axis(conv: onnx.NodeProto) -> int:
    return 0 if conv.op_type == "Conv" else 1


def _bias(conv: onnx.NodeProto, facts: _Facts) -> Array | None:
    """The bias as numbers, zeros where there is none; None where it is computed."""
    name = conv.input[2] if len(conv.input) > 2 else ""
    if not name:
        return np.zeros(1)
    if name in facts.constants:
        return facts.constants[name].astype(np.float64)
    node = facts.producer.get(name)
    if node is None or node.op_type != "DequantizeLinear" or any(i not in facts.constants for i in node.input if i):
        return None
    zero_point = facts.constants[node.input[2]].astype(np.float64) if len(node.input) > 2 and node.input[2] else 0.0
    return np.asarray((facts.constants[node.input[0]] - zero_point) * facts.constants[node.input[1]].astype(np.float64))


def _integers(site: QdqSite, params: QuantParams, facts: _Facts) -> Array:
    if site.quantize:
        return quantize_array(facts.constants[site.tensor], params)
    return facts.constants[facts.producer[site.output].input[0]]


def _signed(integers: Array, params: QuantParams, factor: Array, axis: int) -> Array | None:
    """The integers with the factor's sign, 0 for a factor of 0; None where one would leave the format."""
    shape = [-1 if i == axis else 1 for i in range(integers.ndim)]
    zero = np.broadcast_to(np.array(params.zero_point), factor.shape).reshape(shape)
    signed = zero + (integers.astype(np.int64) - zero) * np.sign(factor).astype(np.int64).reshape(shape)
    low, high = LIMITS[params.dtype]
    return None if signed.min() < low or signed.max() > high else signed.astype(integers.dtype)


def _apply_(model: onnx.ModelProto, fold: _Fold, facts: _Facts) -> None:
    node = facts.producer[fold.conv.input[1]]
    values = {
        "folded": fold.integers,
        "folded_scale": np.array(fold.params.scale, facts.constants[node.input[1]].dtype),
        "folded_zero_point": np.array(fold.params.zero_point, fold.integers.dtype),
        "folded_bias": fold.bias,
    }
    names = [fresh(f"{fold.conv.input[1]}.{suffix}", facts.taken) for suffix in values]
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(values.values(), names, strict=True))
    node.input[:] = names[:3]
    kept = [each for each in node.attribute if each.name != "axis"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("axis", _output_axis(fold.conv))])
    fold.conv.input[2:] = names[3:]
