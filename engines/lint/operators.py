"""Operators that a target lacks, or takes for something else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from engines.lint.finding import Finding
from engines.lint.targets import Takes
from engines.lint.view import MICROSOFT, View, is_qdq
from engines.onnx_graph import is_standard

_INTEGER_PRODUCTS = frozenset({"ConvInteger", "MatMulInteger"})
_LARGEST_K = 3840
_EIGHT_BIT = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32})


def findings(view: View, target: Takes) -> Iterator[Finding]:
    """The operators of a graph that the target does not take as they are."""
    for node in view.nodes:
        if node.domain == MICROSOFT and is_qdq(node):
            yield from _microsoft(view, node, target)
        elif _is_qoperator(node):
            yield from _qoperator(view, node, target)
        elif not is_standard(node):
            yield from _foreign(view, node, target)
        elif not _known(node.op_type, view.opset):
            yield Finding(
                "unknown_operator",
                "refused",
                view.label(node),
                f"{node.op_type}, which ONNX has not at opset {view.opset}",
                f"{target.name} has no such operator",
                "replace it by others, or cut the graph before it",
            )
        elif target.tensorrt:
            yield from _standard(view, node, target)


def _is_qoperator(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("QLinear") or node.op_type in _INTEGER_PRODUCTS | {"DynamicQuantizeLinear"}


def _qoperator(view: View, node: onnx.NodeProto, target: Takes) -> Iterator[Finding]:
    dynamic = node.op_type == "DynamicQuantizeLinear" or node.op_type in _INTEGER_PRODUCTS
    if not target.tensorrt and not (node.domain == MICROSOFT and MICROSOFT not in target.foreign):
        return
    yield Finding(
        "dynamic_quantize" if dynamic else "qoperator",
        "refused",
        view.label(node),
        f"{node.op_type}: " + ("dynamic quantization" if dynamic else "the QOperator format"),
        f"{target.name} has no such operator",
        "quantize statically, in the QDQ format" if dynamic else "export it in the QDQ format: quant_format=QDQ",
    )


def _microsoft(view: View, node: onnx.NodeProto, target: Takes) -> Iterator[Finding]:
    if MICROSOFT in target.foreign:
        return
    quant = view.quants.get(node.output[0])
    yield Finding(
        "microsoft_qdq",
        "note" if target.tensorrt else "refused",
        view.label(node),
        f"{node.op_type} of the domain {MICROSOFT}",
        f"{target.name} goes by the operator's name" if target.tensorrt else f"{target.name} does not know the domain",
        "use the operator of ONNX itself",
        fixable=quant is not None and standardizable(view, node),
    )


def standardizable(view: View, node: onnx.NodeProto) -> bool:
    """Whether ONNX's own operator means the same: 8 bits, and an opset with per-channel scales where there are any."""
    quant = view.quants[node.output[0]]
    return quant.dtype in _EIGHT_BIT and view.opset >= (13 if quant.per_channel else 10)


def _foreign(view: View, node: onnx.NodeProto, target: Takes) -> Iterator[Finding]:
    if node.domain in target.foreign:
        return
    yield Finding(
        "unknown_operator",
        "refused",
        view.label(node),
        f"{node.op_type} of the domain {node.domain}",
        f"{target.name} has no such operator: 'Plugin not found'"
        if target.tensorrt
        else f"{target.name} has no such operator unless it is registered",
        "replace it by standard operators, or cut the graph before it",
    )


def _standard(view: View, node: onnx.NodeProto, target: Takes) -> Iterator[Finding]:
    label, op = view.label(node), node.op_type
    if op == "NonMaxSuppression":
        yield Finding(
            "nms",
            "refused",
            label,
            "NonMaxSuppression inside the network",
            f"{target.name} parses it and then does not build it: 'no runners that implement it'"
            if target.name == "TensorRT-RTX"
            else "its output's shape depends on the data: slow where it builds at all",
            "cut the graph before it, and run it outside the engine",
        )
    elif op == "TopK" and _k(view, node) > _LARGEST_K:
        yield Finding(
            "topk",
            "refused",
            label,
            f"TopK with k = {_k(view, node)}",
            f"{target.name} takes {_LARGEST_K} at most",
            "lower k, or cut the graph before it",
        )
    elif op in target.missing:
        yield Finding(
            "unsupported_operator",
            "refused",
            label,
            op,
            f"{target.name} has no such operator",
            "replace it by others, or cut the graph before it",
        )


def _known(op: str, opset: int) -> bool:
    return bool(onnx.defs.has(op, max_inclusive_version=opset)) if opset <= onnx.defs.onnx_opset_version() else True


def _k(view: View, node: onnx.NodeProto) -> int:
    k = view.array(node.input[1]) if len(node.input) > 1 else None
    return int(np.max(k)) if k is not None and k.size else 0
