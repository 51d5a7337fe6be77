"""Quantization in a network that is imported: the integers stay floats, so that gradients pass through them.

Source: ONNX QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear; straight-through estimator, arXiv:1308.3432.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import Tensor

from avcompress.onnx_import.operand import Call, OnnxNode, Operand

FP8_MAX = 448.0
_BOUNDS: dict[int, tuple[int, int]] = {
    onnx.TensorProto.INT8: (-128, 127),
    onnx.TensorProto.UINT8: (0, 255),
    onnx.TensorProto.INT16: (-32768, 32767),
    onnx.TensorProto.UINT16: (0, 65535),
    onnx.TensorProto.INT4: (-8, 7),
    onnx.TensorProto.UINT4: (0, 15),
}
Grid = tuple[int, int] | None
"""The smallest and the largest integer; None is the FP8 type E4M3."""


def round_straight_through(x: Tensor) -> Tensor:
    """Half to even; the gradient passes as if nothing were rounded. Exact: the difference of the two is."""
    return x + (x.round() - x).detach()


def cast_fp8(x: Tensor) -> Tensor:
    """The nearest FP8 value of type E4M3 (no infinities), saturated at 448; straight-through gradient inside.

    Source: FP8 formats for deep learning, arXiv:2209.05433.
    """
    inside = x.clamp(-FP8_MAX, FP8_MAX)
    return inside + (inside.to(torch.float8_e4m3fn).to(x.dtype) - inside).detach()


def quantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None, grid: Grid) -> Tensor:
    """The integers of ONNX QuantizeLinear, as floats; the gradient passes straight through in range.

    Args:
        x: any shape, float32.
        scale: () or (channels,) along `axis`.
        zero_point: the same shape; None is zero.
        axis: None per tensor.
        grid: the integers, or FP8.
    """
    steps = x / _along(scale, axis, x.dim())
    if grid is None:
        return cast_fp8(steps)
    steps = round_straight_through(steps)
    if zero_point is not None:
        steps = steps + _along(zero_point, axis, x.dim())
    return steps.clamp(*grid)


def dequantize_linear(q: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None, block: int = 0) -> Tensor:
    """(q - zero_point) * scale; with `block`, so many values along the axis share a scale."""
    if block and axis is not None:
        scale = scale.repeat_interleave(block, axis).narrow(axis, 0, q.shape[axis])
        zero_point = zero_point if zero_point is None else zero_point.repeat_interleave(block, axis)
        zero_point = zero_point if zero_point is None else zero_point.narrow(axis, 0, q.shape[axis])
        axis = None
    if zero_point is not None:
        q = q - _along(zero_point, axis, q.dim())
    return q * _along(scale, axis, q.dim())


def requantize(
    weight: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None, block: int, grid: Grid
) -> Tensor:
    """A weight that was stored as integers, held as floats: rounded onto their grid again at each use."""
    if block and axis is not None:
        wide = scale.repeat_interleave(block, axis).narrow(axis, 0, weight.shape[axis])
        shift = None if zero_point is None else zero_point.repeat_interleave(block, axis)
        shift = None if shift is None else shift.narrow(axis, 0, weight.shape[axis])
        return dequantize_linear(quantize_linear(weight, wide, shift, None, grid), wide, shift, None)
    return dequantize_linear(quantize_linear(weight, scale, zero_point, axis, grid), scale, zero_point, axis)


def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Uint8 values, their scale and zero point, from the extremes of x itself."""
    low, high = x.amin().clamp(max=0).detach(), x.amax().clamp(min=0).detach()
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.round((0 - low) / scale).clamp(0, 255)
    return quantize_linear(x, scale, zero_point, None, (0, 255)), scale, zero_point


def _along(values: Tensor, axis: int | None, rank: int) -> Tensor:
    """Values that broadcast along an axis."""
    if axis is None or values.dim() != 1:
        return values
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


# --- how nodes become calls


def stored_type(node: OnnxNode, operand: Operand | None, stored: dict[str, int]) -> int:
    """The ONNX type of the integers: that of the zero point, or `output_dtype`, or uint8."""
    if operand is not None:
        return stored.get(operand.name, onnx.TensorProto.UINT8)
    return int(node.attribute("output_dtype", 0)) or onnx.TensorProto.UINT8


def bounds_of(kind: int) -> Grid:
    """The integers that a constant of an ONNX type may hold, those of biases among them."""
    return (-(2**31), 2**31 - 1) if kind == onnx.TensorProto.INT32 else _BOUNDS.get(kind)


def grid_of(node: OnnxNode, kind: int) -> Grid:
    """The integers of an ONNX type."""
    if kind == onnx.TensorProto.FLOAT8E4M3FN:
        return None
    if kind not in _BOUNDS:
        name = onnx.TensorProto.DataType.Name(kind)
        raise node.error("8-bit or 4-bit integers or FP8 E4M3", name, "quantize it to one of those")
    return _BOUNDS[kind]


def _axis(node: OnnxNode) -> int | None:
    return node.axis(1) if node.required(1).rank else None


def lower_quantize(node: OnnxNode, stored: dict[str, int]) -> Call:
    """QuantizeLinear; `stored` are the ONNX types of the constants."""
    if node.attribute("block_size", 0):
        raise node.error("one scale per tensor or channel of an activation", "blocks", "store the weight as integers")
    zero = node.optional(2)
    grid = grid_of(node, stored_type(node, zero, stored))
    shift = None if grid is None or zero is None else zero
    return Call(quantize_linear, (node.x, node.required(1), shift, _axis(node), grid))


def lower_dequantize(node: OnnxNode, stored: dict[str, int]) -> Call:
    """DequantizeLinear, of an activation or of a stored weight."""
    kind, zero, block = stored.get(node.x.name, 0), node.optional(2), int(node.attribute("block_size", 0))
    axis = node.axis(1) if block else _axis(node)
    shift = zero if zero is not None and stored.get(zero.name) != onnx.TensorProto.FLOAT8E4M3FN else None
    args: tuple[Any, ...] = (node.x, node.required(1), shift, axis, block)
    if node.x.value is None:
        return Call(dequantize_linear, args)
    if kind == onnx.TensorProto.INT32:  # a bias: float32 cannot hold its grid, and needs not
        return Call(identity_of_parameter, (node.x,))
    return Call(requantize, (*args, grid_of(node, kind)))


def identity_of_parameter(x: Tensor) -> Tensor:
    """A parameter that was stored as INT32, as it is."""
    return x


def _lower_dynamic(node: OnnxNode) -> Call:
    return Call(dynamic_quantize, (node.x,))


LOWERINGS: dict[str, Callable[[OnnxNode], Call]] = {"DynamicQuantizeLinear": _lower_dynamic}
