"""What NVIDIA's Deep Learning Accelerator takes of ONNX's operators, and in which precision.

As Orin's DLA has it through TensorRT 8.6: later 10.x list Div and Pow too, and loosen others; nothing here has run on
one. TensorRT's own `can_run_on_DLA` on the device has the last word: what the compiler's buffers hold is not modelled.

Source: TensorRT 8.6 Developer Guide, "DLA Supported Layers and Restrictions"; IResizeLayer in its API reference;
NVIDIA Deep-Learning-Accelerator-SW, operators/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from avcompress.spec import Array
from engines.onnx_graph import attribute, is_standard

_LARGEST_BATCH, _LARGEST_SIZE = 4096, 8192
FP16_ONLY = frozenset({"LRN", "Slice", "Softmax", "Split"})
"""Operators that DLA computes in FP16 only."""
ONE_SCALE = frozenset({"AveragePool", "Concat", "MaxPool"})
"""Operators whose inputs and outputs have one scale in INT8."""


@dataclass(frozen=True)
class Facts:
    """What is known of a network.

    Attributes:
        shapes: static shapes by tensor name.
        constants: values by tensor name.
    """

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]


def obstacle(node: onnx.NodeProto, facts: Facts) -> str:
    """Why DLA cannot compute a node, "" if it can."""
    rule = _RULES.get(node.op_type) if is_standard(node) else None
    if rule is None:
        return f"DLA has no {node.op_type}"
    return _shapes_problem(node, facts) or rule(node, facts)


def _shapes_problem(node: onnx.NodeProto, facts: Facts) -> str:
    moving = [name for name in (*node.input, *node.output) if name and name not in facts.constants]
    for name in moving:
        shape = facts.shapes.get(name)
        if shape is None:
            return f"the shape of {name!r} is not static"
        if len(shape) != 4 and node.op_type not in {"Gemm", "MatMul"}:
            return f"{name!r} has {len(shape)} axes, DLA takes 4"
        if shape and shape[0] > _LARGEST_BATCH:
            return f"a batch of {shape[0]}, DLA takes {_LARGEST_BATCH} at most"
        if any(size > _LARGEST_SIZE for size in shape[1:]):
            return f"{name!r} has an axis of {max(shape[1:])}, DLA takes {_LARGEST_SIZE} at most"
    return ""


# --- numbers of a window

_Rule = Callable[[onnx.NodeProto, Facts], str]


def _ints(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    value = attribute(node, name, default)
    return [int(v) for v in value] if isinstance(value, list | tuple) else default


def _within(what: str, values: list[int], low: int, high: int) -> str:
    bad = next((value for value in values if not low <= value <= high), None)
    return "" if bad is None else f"{what} of {bad}, DLA takes {low} to {high}"


def _explicit_pads(node: onnx.NodeProto) -> str:
    kind = attribute(node, "auto_pad", b"NOTSET")
    return "" if kind in {b"NOTSET", b"", b"VALID"} else "auto_pad, whose padding is not stated"


def _kernel(node: onnx.NodeProto, facts: Facts) -> list[int]:
    weight = facts.shapes.get(node.input[1], facts.constants[node.input[1]].shape)
    return list(weight[2:])


def _conv(node: onnx.NodeProto, facts: Facts) -> str:
    if node.input[1] not in facts.constants:
        return "its weights are computed"
    kernel, pads = _kernel(node, facts), _ints(node, "pads", [0, 0, 0, 0])
    wide = [pad for pad, size in zip(pads, [*kernel, *kernel], strict=True) if pad >= size]
    return (
        _explicit_pads(node)
        or _within("a kernel", kernel, 1, 32)
        or _within("a padding", pads, 0, 31)
        or (f"a padding of {wide[0]}, not less than the kernel" if wide and not _dilated(node) else "")
        or _within("a stride", _ints(node, "strides", [1, 1]), 1, 8)
        or _within("a dilation", _ints(node, "dilations", [1, 1]), 1, 32)
    )


def _dilated(node: onnx.NodeProto) -> bool:
    """The documentation names the kernel's own size: a dilated one reaches farther, and its padding with it."""
    return max(_ints(node, "dilations", [1, 1])) > 1


def _conv_transpose(node: onnx.NodeProto, facts: Facts) -> str:
    if node.input[1] not in facts.constants:
        return "its weights are computed"
    kernel = _kernel(node, facts)
    long = sorted(kernel)[0] == 1 and sorted(kernel)[1] in {64, 96, 128}
    return (
        _explicit_pads(node)
        or _within("padding", _ints(node, "pads", [0, 0, 0, 0]), 0, 0)
        or _within("output padding", _ints(node, "output_padding", [0, 0]), 0, 0)
        or _within("a group", [int(str(attribute(node, "group", 1)))], 1, 1)
        or _within("a dilation", _ints(node, "dilations", [1, 1]), 1, 1)
        or ("" if long else _within("a kernel", kernel, 1, 32))
        or ("a square kernel from 23 on, which TensorRT keeps off DLA" if kernel[0] == kernel[1] >= 23 else "")
        or _within("a stride", _ints(node, "strides", [1, 1]), 1, 32)
    )


def _pool(node: onnx.NodeProto, _facts: Facts) -> str:
    return (
        _explicit_pads(node)
        or _within("a window", _ints(node, "kernel_shape", []), 1, 8)
        or _within("a padding", _ints(node, "pads", [0, 0, 0, 0]), 0, 7)
        or _within("a stride", _ints(node, "strides", [1, 1]), 1, 16)
        or _within("a dilation", _ints(node, "dilations", [1, 1]), 1, 1)
    )


# --- other operators


def _any(_node: onnx.NodeProto, _facts: Facts) -> str:
    return ""


def _product(node: onnx.NodeProto, facts: Facts) -> str:
    return "" if node.input[1] in facts.constants else "its second input is no constant"


def _leaky(node: onnx.NodeProto, _facts: Facts) -> str:
    return "a negative slope" if float(str(attribute(node, "alpha", 0.01))) < 0 else ""


def _prelu(node: onnx.NodeProto, facts: Facts) -> str:
    return "" if node.input[1] in facts.constants else "its slopes are computed"


def _clip(node: onnx.NodeProto, facts: Facts) -> str:
    bounds = [facts.constants.get(name) for name in node.input[1:3]]
    if len(bounds) < 2 or any(bound is None or bound.size != 1 for bound in bounds):
        return "no constant bounds, DLA clips from 0 to a number"
    low, high = (float(np.asarray(bound).item()) for bound in bounds)
    return "" if low == 0 and 1 <= high <= 127 else f"it clips {low:g} to {high:g}, DLA 0 to a number from 1 to 127"


def _elementwise(node: onnx.NodeProto, facts: Facts) -> str:
    whole = facts.shapes[node.output[0]]
    for name in node.input:
        shape = facts.shapes.get(name)
        if name in facts.constants or shape is None or shape == whole:
            continue
        if shape not in {(*whole[:2], 1, 1), (whole[0], 1, 1, 1)}:
            return f"{name!r} is broadcast from {'x'.join(map(str, shape))}"
    return ""


def _concat(node: onnx.NodeProto, _facts: Facts) -> str:
    axis = int(str(attribute(node, "axis", 1)))
    if axis not in {1, -3}:
        return f"it joins along axis {axis}, DLA along channels"
    return "one input only" if len(node.input) < 2 else ""


_NEAREST = frozenset(
    {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
)


def _resize(node: onnx.NodeProto, facts: Facts) -> str:
    mode, coordinates, rounding = (
        _text(attribute(node, name, default))
        for name, default in (
            ("mode", "nearest"),
            ("coordinate_transformation_mode", "half_pixel"),
            ("nearest_mode", "round_prefer_floor"),
        )
    )
    if mode not in {"nearest", "linear"}:
        return f"mode {mode}"
    if mode == "nearest" and (coordinates, rounding) not in _NEAREST:
        return f"nearest with {coordinates} and {rounding}"
    if mode == "linear" and coordinates not in {"half_pixel", "pytorch_half_pixel"}:
        return f"linear with {coordinates}"
    before, after = facts.shapes[node.input[0]], facts.shapes[node.output[0]]
    factors = [b / a for a, b in zip(before, after, strict=True)]
    largest = 32 if mode == "nearest" else 4
    if factors[:2] != [1, 1] or any(f != int(f) or not 1 <= f <= largest for f in factors[2:]):
        return f"it resizes by {factors[-2]:g} and {factors[-1]:g}, DLA by whole numbers up to {largest}"
    return ""


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _shuffle(node: onnx.NodeProto, facts: Facts) -> str:
    before, after = facts.shapes[node.input[0]], facts.shapes[node.output[0]]
    moved = _ints(node, "perm", [0])[0] != 0
    return "it changes the batch axis" if moved or before[0] != after[0] else ""


def _slice(node: onnx.NodeProto, facts: Facts) -> str:
    if any(name and name not in facts.constants for name in node.input[1:]):
        return "its bounds are computed"
    before, after = facts.shapes[node.input[0]], facts.shapes[node.output[0]]
    return "it cuts the batch axis" if before[0] != after[0] else ""


def _lrn(node: onnx.NodeProto, _facts: Facts) -> str:
    size = int(str(attribute(node, "size", 0)))
    return "" if size in {3, 5, 7, 9} else f"a window of {size}, DLA takes 3, 5, 7 and 9"


def _reduce_max(node: onnx.NodeProto, _facts: Facts) -> str:
    axes = _ints(node, "axes", [])
    if not axes or 0 in axes or -4 in axes:
        return "it reduces the batch axis, or axes that are not stated"
    return "" if attribute(node, "keepdims", 1) else "it drops the axes that it reduces"


_RULES: Mapping[str, _Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _product,
    "MatMul": _product,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "BatchNormalization": _any,
    "Relu": _any,
    "Sigmoid": _any,
    "Tanh": _any,
    "LeakyRelu": _leaky,
    "Clip": _clip,
    "PRelu": _prelu,
    "Abs": _any,
    "Add": _elementwise,
    "Sub": _elementwise,
    "Mul": _elementwise,
    "Max": _elementwise,
    "Min": _elementwise,
    "Sum": _elementwise,
    "Concat": _concat,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _slice,
    "Softmax": _any,
    "LRN": _lrn,
    "ReduceMax": _reduce_max,
    "Reshape": _shuffle,
    "Flatten": _shuffle,
    "Squeeze": _shuffle,
    "Unsqueeze": _shuffle,
    "Transpose": _shuffle,
    "Identity": _any,
    "Dropout": _any,
}
