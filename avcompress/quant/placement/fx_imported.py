"""The view of the calls that `import_onnx` made: their kinds are those of ONNX already."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx
from torch.fx.node import map_arg

from avcompress.quant.placement.fx_sketch import Layer, Sketch, is_tensor, op_name, pool_kind
from avcompress.quant.tracing import FAKE
from avcompress.spec import WEIGHTED


def imported_op(node: fx.Node, sketch: Sketch) -> None:
    """Add the operator of an imported node."""
    kind, outputs = str(node.meta["onnx_op"]), tuple(node.meta["onnx"][1])
    sketch.names[node] = outputs if len(outputs) > 1 or isinstance(node.meta[FAKE], tuple | list) else outputs[0]
    if kind == "BatchNormalization" and sketch.fold_into_producer(node, node.args[0], outputs[0]):
        return
    if kind in WEIGHTED:
        _weighted(node, sketch, kind, outputs[0])
        return
    inputs: list[Any] = []
    map_arg((node.args, node.kwargs), inputs.append)
    data = tuple(item for item in inputs if is_tensor(item))
    sketch.add(_kind(node, kind), data, op_name(node), outputs, _moves(node, kind))


def _kind(node: fx.Node, kind: str) -> str:
    if kind in {"ReduceMean", "ReduceMax"}:
        return pool_kind(kind, _shape(node), None, node.args[1])  # type: ignore[arg-type]
    if kind in {"AveragePool", "MaxPool"} and set(node.meta[FAKE].shape[2:]) == {1}:
        return pool_kind(kind, _shape(node), node.args[1], None)  # type: ignore[arg-type]
    return kind


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.args[0].meta[FAKE].shape)  # type: ignore[union-attr]


def _moves(node: fx.Node, kind: str) -> bool:
    match kind:
        case "Resize" | "Upsample":
            return node.args[2] == "nearest"
        case "Pad":
            return node.args[2] != "constant" or node.args[3] in {0}
        case _:
            return False


def _groups(node: fx.Node) -> int:
    """The last argument of a convolution, or of the geometry of one that is padded unevenly."""
    args: Any = node.args
    return int(args[6] if len(args) > 6 else args[4][2])


def _weighted(node: fx.Node, sketch: Sketch, kind: str, output: str) -> None:
    x, weight = node.args[:2]
    data, shape = sketch.shape(x), sketch.shape(weight)
    out = tuple(node.meta[FAKE].shape)
    groups, axis = 1, len(shape) - 1
    channels: tuple[int, ...] = (0, 0)
    macs = int(np.prod(out)) * data[-1]
    match kind:
        case "Conv":
            groups, axis = _groups(node), 0
            channels, macs = (shape[1] * groups, shape[0]), int(np.prod(out) * np.prod(shape[1:]))
        case "ConvTranspose":
            groups, axis = _groups(node), 1
            channels, macs = (shape[0], shape[1] * groups), int(np.prod(data) * np.prod(shape[1:]))
        case "Gemm":
            flipped = node.target.__name__ == "linear" or node.args[4][1]  # type: ignore[union-attr, index]
            axis, channels = 0 if flipped else 1, shape[::-1] if flipped else shape
            inner = data[0] if node.target.__name__ == "gemm" and node.args[4][0] else data[1]  # type: ignore[union-attr, index]
            macs = int(np.prod(out)) * inner
        case _:
            channels = shape[-2:] if len(shape) > 1 else (0, 0)
    kernel = shape[2:] if kind.startswith("Conv") else ()
    layer = Layer(weight, axis, (channels[0], channels[1]), groups, kernel)
    operands = [item for item in node.args[:3] if item is None or isinstance(item, fx.Node)]
    sketch.add_weighted(kind, operands, op_name(node), output, layer, macs)
