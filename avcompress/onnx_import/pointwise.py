"""Operators that work on each value alone: activations, arithmetic, comparisons, casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avcompress.onnx_import.operand import DTYPES, Call, OnnxNode

Function = Callable[..., Any]


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """max(0, min(1, alpha * x + beta))."""
    return torch.clamp(x * alpha + beta, 0, 1)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """The slope broadcasts to x; where x is exactly zero either branch gives zero."""
    return torch.where(x < 0, x * slope, x)


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """X where it is above alpha, else zero."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


def hard_swish(x: Tensor) -> Tensor:
    """X * clamp(x / 6 + 1/2, 0, 1)."""
    return F.hardswish(x)


def celu(x: Tensor, alpha: float) -> Tensor:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return F.celu(x, alpha)


def elu(x: Tensor, alpha: float) -> Tensor:
    """X above zero, alpha * (exp(x) - 1) below."""
    return torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


def selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """Gamma * elu(x, alpha)."""
    return gamma * elu(x, alpha)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) without overflow."""
    return torch.logaddexp(x, torch.zeros_like(x))


def mish(x: Tensor) -> Tensor:
    """X * tanh(softplus(x))."""
    return x * torch.tanh(softplus(x))


def swish(x: Tensor, alpha: float) -> Tensor:
    """X * sigmoid(alpha * x)."""
    return x * torch.sigmoid(alpha * x)


def divide(x: Tensor, y: Tensor) -> Tensor:
    """X / y; whole numbers are cut towards zero, as C does."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def modulo(x: Tensor, y: Tensor, fmod: bool) -> Tensor:
    """The remainder with the sign of x (`fmod`) or of y."""
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


def power(x: Tensor, y: Tensor) -> Tensor:
    """X to the y, in the type of x."""
    return torch.pow(x, y).to(x.dtype)


def clip(x: Tensor, low: Tensor | float | None, high: Tensor | float | None) -> Tensor:
    """Clamp; a bound may be left out. Where they cross, the high one holds."""
    if low is not None:
        x = torch.clamp_min(x, low)
    if high is not None:
        x = torch.clamp_max(x, high)
    return x


def total(*tensors: Tensor) -> Tensor:
    """The sum of several tensors."""
    return reduce(torch.add, tensors)


def largest(*tensors: Tensor) -> Tensor:
    """The largest of several tensors, value by value."""
    return reduce(torch.maximum, tensors)


def smallest(*tensors: Tensor) -> Tensor:
    """The smallest of several tensors, value by value."""
    return reduce(torch.minimum, tensors)


def average(*tensors: Tensor) -> Tensor:
    """The mean of several tensors, value by value."""
    return total(*tensors) / len(tensors)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Another type; floats are cut towards zero on the way to whole numbers."""
    return x.to(dtype)


def identity(x: Tensor) -> Tensor:
    """The same tensor."""
    return x


def is_inf(x: Tensor, negative: bool, positive: bool) -> Tensor:
    """Where x is an infinity of one of the given signs."""
    return (torch.isposinf(x) & positive) | (torch.isneginf(x) & negative)


# --- how nodes become calls


def _lower_plain(node: OnnxNode) -> Call:
    return Call(_PLAIN[node.kind], node.inputs)


def _lower_with_floats(node: OnnxNode) -> Call:
    target, defaults = _WITH_FLOATS[node.kind]
    return Call(target, (node.x, *(float(node.attribute(name, default)) for name, default in defaults.items())))


def _lower_gelu(node: OnnxNode) -> Call:
    return Call(F.gelu, (node.x,), {"approximate": node.attribute("approximate", "none")})


def _lower_clip(node: OnnxNode) -> Call:
    bounds: list[Any] = []
    for index, name in ((1, "min"), (2, "max")):
        operand = node.optional(index)
        bound = node.attribute(name) if operand is None else operand
        # A plain number keeps the graph readable, and shows what kind of activation this is.
        bounds.append(bound if operand is None or operand.value is None else operand.value.item())
    return Call(clip, (node.x, *bounds))


def _lower_cast(node: OnnxNode) -> Call:
    if node.kind == "CastLike":
        return Call(cast, (node.x, node.required(1).meta.dtype))
    dtype = DTYPES.get(node.attribute("to"))
    if dtype is None:
        raise node.error("a cast to a type that torch has", f"type {node.attribute('to')}", "export it without")
    return Call(cast, (node.x, dtype))


def _lower_mod(node: OnnxNode) -> Call:
    return Call(modulo, (node.x, node.required(1), bool(node.attribute("fmod", 0))))


def _lower_is_inf(node: OnnxNode) -> Call:
    signs = (bool(node.attribute("detect_negative", 1)), bool(node.attribute("detect_positive", 1)))
    return Call(is_inf, (node.x, *signs))


def _lower_dropout(node: OnnxNode) -> Call:
    if len([name for name in node.proto.output if name]) > 1:
        raise node.error("a Dropout without a mask output", "one with", "export it in eval mode")
    return Call(identity, (node.x,))


_PLAIN: dict[str, Function] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Add": torch.add,
    "And": torch.logical_and,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Div": divide,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSwish": hard_swish,
    "Identity": identity,
    "IsNaN": torch.isnan,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Max": largest,
    "Mean": average,
    "Min": smallest,
    "Mish": mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": prelu,
    "Pow": power,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": total,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}

_WITH_FLOATS: dict[str, tuple[Function, dict[str, float]]] = {
    "Celu": (celu, {"alpha": 1.0}),
    "Elu": (elu, {"alpha": 1.0}),
    "HardSigmoid": (hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": (F.leaky_relu, {"alpha": 0.01}),
    "Selu": (selu, {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Swish": (swish, {"alpha": 1.0}),
    "ThresholdedRelu": (thresholded_relu, {"alpha": 1.0}),
}

LOWERINGS: dict[str, Callable[[OnnxNode], Call]] = {
    **dict.fromkeys(_PLAIN, _lower_plain),
    **dict.fromkeys(_WITH_FLOATS, _lower_with_floats),
    "Cast": _lower_cast,
    "CastLike": _lower_cast,
    "Clip": _lower_clip,
    "Dropout": _lower_dropout,
    "Gelu": _lower_gelu,
    "IsInf": _lower_is_inf,
    "Mod": _lower_mod,
}
