"""How a graph that was exported for one image takes several: where in each tensor the images lie.

A file has the shapes of one image written into it. So every tensor is followed with MANY images beside it: they lie
along the one dimension that is so many times as long. Where an operator mixes them, or drops all but the first, the
graph takes one image alone from there on; `import_onnx` says which operator that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx.node import map_aggregate

from avcompress.onnx_import.operand import Call, OnnxNode, Operand

MANY = 1009
"""Prime, and larger than most dimensions: nothing fits it by chance."""

_BY_AXIS = frozenset({"Concat", "GatherElements", "LogSoftmax", "LpNormalization", "Softmax"})
"""Work along the attribute `axis`, and keep the shape's proportions."""
_OF_MAPS = frozenset(
    {
        "AveragePool",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "GridSample",
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "MaxPool",
        "Resize",
        "SpaceToDepth",
        "Upsample",
    }
)
"""Want the images in the first dimension."""
_BY_INDEX = frozenset({"GatherND", "ScatterElements", "ScatterND"})
"""Their indices may name an image."""


def images_axis(operand: Operand) -> int | None:
    """The dimension along which a tensor's images lie; None for one that is the same for all, or not followed."""
    if operand.many is None:
        return None
    return next((i for i, (a, b) in enumerate(zip(operand.shape, operand.many.shape, strict=True)) if a != b), None)


def follow(node: OnnxNode, call: Call, result: Any) -> Any:
    """What a call gives for MANY images, and `result` for one; None where that is not the same for each of them."""
    operands = [operand for operand in node.inputs if operand is not None]
    if any(operand.many is None for operand in operands):
        return None
    if all(images_axis(operand) is None for operand in operands):
        return result
    if _mixes(node):
        return None
    args: Any = map_aggregate(call.args, _many)
    kwargs: Any = map_aggregate(dict(call.kwargs), _many)
    try:
        found = call.target(*args, **kwargs)
    except Exception:  # whatever torch raises for shapes that do not fit: the file has no place for more images
        return None
    parts = [(found, result)] if isinstance(found, Tensor) else list(zip(found, result, strict=True))
    # The scale of a tensor that is quantized as it comes is that of all its images.
    whole = node.kind == "DynamicQuantizeLinear"
    return found if all(_multiplied(many, one) or (whole and not one.dim()) for many, one in parts) else None


def _many(argument: Any) -> Any:
    return argument.many if isinstance(argument, Operand) else argument


def _multiplied(many: Tensor, one: Tensor) -> bool:
    """Whether one dimension is MANY times as long, and no other is changed."""
    if many.dim() != one.dim():
        return False
    changed = [(a, b) for a, b in zip(one.shape, many.shape, strict=True) if a != b]
    return len(changed) == 1 and changed[0][1] == MANY * changed[0][0]


def _mixes(node: OnnxNode) -> bool:
    """Whether an operator works across images although the shapes fit."""
    axes = {axis for operand in node.inputs if operand is not None and (axis := images_axis(operand)) is not None}
    match node.kind:
        case kind if kind in _BY_INDEX:
            return True
        case kind if kind in _OF_MAPS:
            return axes != {0}
        case "LayerNormalization" | "RMSNormalization":
            return node.axis(-1) <= max(axes)
        case "Softmax" | "LogSoftmax" if node.opset < 13:
            return node.axis(1) <= max(axes)
        case "Tile":
            return any((node.integers(1) or [])[axis] != 1 for axis in axes)
        case "CumSum":
            return any(axis % node.x.rank in axes for axis in node.integers(1) or [0])
        case kind if kind in _BY_AXIS:
            return node.axis(0 if kind == "GatherElements" else -1) in axes
        case _:
            return False


def place_in(x: Operand, shape: Sequence[int]) -> int | None:
    """Which dimension of a new shape takes the images of x; None where x has none, or no dimension can.

    Values keep their order, so that as many of them lie before the images as did. Where several dimensions fit, a
    dimension of one does best: that is what the exporter had for its single image.
    """
    axis = images_axis(x)
    if axis is None or not shape:
        return None
    before = int(np.prod(x.shape[:axis], dtype=np.int64))
    if before == 1:
        return 0
    fits = [i for i in range(len(shape)) if int(np.prod(shape[:i], dtype=np.int64)) == before]
    alike = [axis] if axis in fits and tuple(shape[:axis]) == x.shape[:axis] else []
    return next(iter([i for i in fits if shape[i] == 1] + alike), None)
