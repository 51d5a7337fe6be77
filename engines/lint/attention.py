"""Products that are taken apart for attention: TensorRT-RTX computes them in float, whatever their Q/DQ say."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from engines.lint.view import View
from engines.onnx_graph import is_standard, is_weighted

_PARTS = frozenset({"Gather", "Slice", "Split"})
_SAME_PART = frozenset(
    {"Add", "Cast", "Div", "Expand", "Flatten", "Identity", "Mul", "Reshape", "Squeeze", "Sub", "Transpose"}
    | {"Unsqueeze"}
)


def splits_attention(view: View, node: onnx.NodeProto) -> bool:
    """Whether two parts of a product's output come to products of two activations, moved and scaled at most.

    A weight's place is not asked: `node` is a Gemm or a MatMul with one.
    """
    operands: set[str] = set()
    seen: set[tuple[str, str]] = set()
    stack = [(str(node.output[0]), "")]
    while stack:
        tensor, part = stack.pop()
        if (tensor, part) not in seen:
            seen.add((tensor, part))
            for reader in view.readers(tensor):
                if is_weighted(reader) and view.constant.isdisjoint(reader.input[:2]):
                    operands.add(part)
                stack += _onwards(view, reader, tensor, part)
    return len(operands - {""}) > 1


def _onwards(view: View, reader: onnx.NodeProto, tensor: str, part: str) -> Iterator[tuple[str, str]]:
    if not is_standard(reader):
        return
    others = [name for name in reader.input if name and name != tensor and name not in view.constant]
    if reader.op_type in _PARTS:
        yield from ((output, part or output) for output in reader.output)
    elif reader.op_type in _SAME_PART and not others:
        yield from ((output, part) for output in reader.output)
