"""Repairs of the numbers of Q/DQ: zero points, uint8, INT32 biases, scales in lists, foreign domains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from avcompress.spec import Array
from engines.lint.edit import Draft, insert_, set_grid_, sharing
from engines.lint.finding import Repair, Rule
from engines.lint.layers import Layer, layers, unfolds
from engines.lint.operators import standardizable
from engines.lint.params import refittable, type_name
from engines.lint.view import DEQUANTIZE, MICROSOFT, QUANTIZE, Quant, View, is_qdq

_NOT_NEGATIVE = frozenset(
    {"Abs", "Exp", "HardSigmoid", "ReduceL1", "ReduceL2", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"}
)
_KEEPS_SIGN = frozenset(
    {"AveragePool", "DepthToSpace", "Dropout", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool"}
    | {"ReduceMax", "ReduceMean", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


def use_standard_domain_(draft: Draft) -> Iterator[Repair]:
    """Let Q/DQ of ONNX Runtime's domain be ONNX's own."""
    for node in draft.view.nodes:
        if node.domain == MICROSOFT and is_qdq(node) and standardizable(draft.view, node):
            node.domain = ""
            yield Repair("microsoft_qdq", draft.view.label(node), "an operator of ONNX itself")


def store_biases_in_float_(draft: Draft) -> Iterator[Repair]:
    """Put the float values of int32 biases in the place of their DequantizeLinear."""
    for quant in draft.view.quants.values():
        values = draft.view.array(quant.tensor)
        if quant.dtype == TensorProto.INT32 and values is not None and quant.scale is not None:
            draft.replace_by_constant(quant.output, dequantize(values, quant))
            yield Repair("int32_bias", quant.label, "the bias is stored in float")


def dequantize(values: Array, quant: Quant) -> Array:
    """The real numbers that stored integers stand for.

    Source: ONNX DequantizeLinear: (q - zero_point) * scale, the difference in int32, the product in the scale's type.
    """
    if quant.scale is None:
        raise ValueError("expected a stored scale")
    steps = values.astype(np.int32)
    if quant.zero_point is not None:
        steps = steps - _along(quant.zero_point.astype(np.int32), quant, values.ndim)
    return np.asarray(steps.astype(np.float32) * _along(quant.scale.astype(np.float32), quant, values.ndim)).astype(
        quant.scale.dtype
    )


def _along(values: Array, quant: Quant, rank: int) -> Array:
    """One value per channel, in the shape that multiplies a tensor of this rank."""
    if values.size == 1 or quant.axis >= rank:
        return values.reshape(-1)[0] if values.size == 1 else values
    return values.reshape([-1 if axis == quant.axis else 1 for axis in range(rank)])


def make_scales_scalar_(draft: Draft) -> Iterator[Repair]:
    """Turn the list of one scale on a layer's input into a scalar."""
    done: set[str] = set()
    for layer in layers(draft.view):
        for quant in layer.data.quants if layer.data.kind != "float" else ():
            listed = quant.scale is not None and quant.scale.ndim == 1 and quant.scale.size == 1
            group = sharing(draft.view, quant)
            if listed and quant.tensor not in done and all(each.same_grid(quant) for each in group):
                done.add(quant.tensor)
                scale = np.asarray(quant.scale).reshape(())
                zero = quant.zero_point if quant.zero_point is not None else np.zeros((), np.int8)
                set_grid_(draft, group, scale, zero.reshape(()))
                yield Repair("scale_shape", quant.label, "scale and zero point are scalars")


def unfold_scales_(draft: Draft) -> Iterator[Repair]:
    """Divide by a depthwise convolution's input scales in the graph, and multiply its weights' scales by them.

    round(x / s) and the sum of q * (w * s) are what Q/DQ per channel compute, and the layer's own Q/DQ are per tensor.
    """
    for layer in layers(draft.view):
        if layer.obstacle == "per_channel_activation" and unfolds(draft.view, layer):
            _unfold_(draft, layer)
            yield Repair("per_channel_activation", layer.label, "scales in the graph", "float rounding only")


def _unfold_(draft: Draft, layer: Layer) -> None:
    pair, weight, node = draft.view.pair(layer.node.input[0]), layer.weight.quant, layer.node
    stored = draft.view.array(weight.tensor)
    if pair is None or stored is None or pair[0].scale is None or weight.scale is None:
        return
    tensor, scale, before = pair[0].tensor, pair[0].scale, node.output[0]
    divisor = draft.constant(scale.reshape(1, -1, *[1] * (stored.ndim - 2)), f"{tensor}_channel_scales")
    grid = [
        draft.constant(np.ones((), np.float32), f"{tensor}_scale"),
        draft.constant(np.zeros((), np.int8), f"{tensor}_zero_point"),
    ]
    divided = insert_(draft, before, "Div", [tensor, divisor], f"{tensor}_divided")
    quantized = insert_(draft, before, QUANTIZE, [divided, *grid], f"{divided}_quantized")
    node.input[0] = insert_(draft, before, DEQUANTIZE, [quantized, *grid], f"{divided}_dequantized")
    factors = weight.scale.reshape(-1) * np.repeat(scale, len(stored) // len(scale))
    parameters = [
        draft.constant(factors.astype(np.float32), f"{weight.tensor}_scales"),
        draft.constant(np.zeros(factors.shape, np.int8), f"{weight.tensor}_zero_points"),
    ]
    node.input[1] = insert_(
        draft, before, DEQUANTIZE, [weight.tensor, *parameters], f"{weight.tensor}_dequantized", axis=0
    )


# --- zero points and uint8


def make_symmetric_(draft: Draft) -> Iterator[Repair]:
    """Put 8-bit Q/DQ with zero points, or of uint8, on the grid of int8 around 0."""
    done: set[str] = set()
    for quant in draft.view.quants.values():
        integers = quant.output if quant.quantizes else quant.tensor
        if integers not in done and _asks_for_it(quant) and refittable(draft.view, quant):
            done.add(integers)
            group = sharing(draft.view, quant)
            rule = _rule(group)
            if _centred(quant):
                what, difference = "int8 with zero point 0: the same numbers", ""
                scale = np.asarray(quant.scale)
                _store_shifted_(draft, quant)
            else:
                what, difference, scale = _refit_(draft, quant)
            set_grid_(draft, group, scale, np.zeros(scale.shape, np.int8))
            for each in group:
                yield Repair(rule, each.label, what, difference)


def _asks_for_it(quant: Quant) -> bool:
    shifted = quant.zero_point is not None and bool(quant.zero_point.astype(np.int32).any())
    return quant.dtype == TensorProto.UINT8 or (quant.dtype == TensorProto.INT8 and shifted)


def _rule(group: list[Quant]) -> Rule:
    if any(q.zero_point is not None and q.zero_point.any() for q in group):
        return "zero_point"
    return "uint8" if group[0].explicit else "no_zero_point"


def _centred(quant: Quant) -> bool:
    middle = quant.zero_point is not None and bool((quant.zero_point == 128).all())
    return quant.dtype == TensorProto.UINT8 and middle


def _store_shifted_(draft: Draft, quant: Quant) -> None:
    """Store uint8 weights as the int8 ones that are 128 lower."""
    values = draft.view.array(quant.tensor)
    if not quant.quantizes and values is not None:
        _store_(draft, quant, (values.astype(np.int16) - 128).astype(np.int8))


def _store_(draft: Draft, quant: Quant, values: Array) -> None:
    name = draft.constant(values, f"{quant.tensor}_int8")
    for each in sharing(draft.view, quant):
        each.node.input[0] = name


def _refit_(draft: Draft, quant: Quant) -> tuple[str, str, Array]:
    """Another grid that reaches as far; what was done, how the numbers differ, and the new scale."""
    values = draft.view.array(quant.tensor)
    stored = not quant.quantizes and values is not None
    scale = _stored_scale(values, quant) if stored and values is not None else symmetric_scale(quant)
    if stored and values is not None:
        real = dequantize(values, quant).astype(np.float32)
        steps = np.rint(real / _along(scale.astype(np.float32), quant, values.ndim))
        _store_(draft, quant, np.clip(steps, -127, 127).astype(np.int8))
    clipped = quant.quantizes and _loses_relu(draft.view, quant)
    if clipped:
        quant.node.input[0] = insert_(draft, quant.output, "Relu", [quant.tensor], f"{quant.tensor}_clipped")
    ratio = float(np.max(scale.astype(np.float64) / np.asarray(quant.scale, np.float64)))
    what = f"{type_name(quant.dtype)} to symmetric int8" + (
        " behind a Relu, as the old grid cut negatives" if clipped else ""
    )
    return what, f"steps {ratio:.3g} times as wide", scale


def _stored_scale(values: Array, quant: Quant) -> Array:
    """The smallest symmetric scales that reach the largest stored weight, per channel where there are several."""
    real = np.abs(dequantize(values, quant).astype(np.float64))
    if quant.axis_of() is not None:
        real = real.max(axis=tuple(axis for axis in range(real.ndim) if axis != quant.axis))
    largest = real if quant.axis_of() is not None else np.max(real)
    old = np.asarray(quant.scale, np.float64).reshape(np.shape(largest))
    new = np.where(largest > 0, largest / 127, old)
    return np.asarray(new.reshape(np.asarray(quant.scale).shape), np.asarray(quant.scale).dtype)


def symmetric_scale(quant: Quant) -> Array:
    """The scale of int8 around 0 that reaches the farther end of a grid's range."""
    lowest, highest = (0, 255) if quant.dtype == TensorProto.UINT8 else (-128, 127)
    zero = np.zeros((), np.int32) if quant.zero_point is None else quant.zero_point.astype(np.int32)
    reach = np.maximum(zero - lowest, highest - zero)
    scale = np.asarray(quant.scale)
    return np.asarray(
        scale.astype(np.float64) * reach.reshape(scale.shape if reach.size > 1 else ()) / 127, scale.dtype
    )


def _loses_relu(view: View, quant: Quant) -> bool:
    """Whether the grid begins at 0 and so cuts what may be negative: ONNX Runtime leaves a Relu out then."""
    return _begins_at_zero(quant) and not _never_negative(view, quant.tensor)


def _begins_at_zero(quant: Quant) -> bool:
    lowest = 0 if quant.dtype == TensorProto.UINT8 else -128
    zero = np.zeros(()) if quant.zero_point is None else quant.zero_point
    return bool((zero == lowest).all())


def _never_negative(view: View, tensor: str) -> bool:
    node = view.producer.get(tensor)
    while node is not None and (node.op_type in _KEEPS_SIGN or is_qdq(node)):
        quant = view.quants.get(node.output[0])
        if quant is not None and _begins_at_zero(quant):
            return True
        node = view.producer.get(node.input[0])
    if node is not None and node.op_type == "Concat":
        return all(_never_negative(view, name) for name in node.input)
    return node is not None and node.op_type in _NOT_NEGATIVE
