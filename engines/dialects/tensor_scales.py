"""A scale for every tensor of an implicitly quantized network, from the few that Q/DQ give.

Q/DQ stand on the inputs of weighted layers; implicit quantization wants a scale on each layer's output as well. Where
an operator only picks or clips values, rounding before it and after it is the same, and its scale is passed on without
a change of the numbers. What is left comes from calibration's ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from avcompress.spec import Array, TensorRange
from engines.dialects.prepare import float_tensors
from engines.onnx_graph import attribute, is_standard
from engines.qdq import constant_values

Origin = Literal["q/dq", "passed on", "range", "constant"]
LEVELS = 127

_PICKS = frozenset(
    {"Clip", "Concat", "DepthToSpace", "Dropout", "Flatten", "GlobalMaxPool", "Identity", "MaxPool", "Relu", "Reshape"}
    | {"Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators whose every output is one of their inputs, or a bound: they commute with symmetric rounding."""
_WITHIN = _PICKS | {"LeakyRelu", "Resize"}
"""Operators whose outputs stay within the range of their input."""
WITH_CONSTANT = frozenset({"Add", "Concat", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum"})
"""Operators whose constant input is a tensor of its own in TensorRT, with a scale of its own."""


@dataclass(frozen=True)
class Scale:
    """A tensor's scale, and where it is from."""

    value: float
    origin: Origin


def tensor_scales(
    model: onnx.ModelProto, known: Mapping[str, float], ranges: Mapping[str, TensorRange]
) -> dict[str, Scale]:
    """The scale of each float tensor that has a usable one, by name.

    Args:
        model: float, its types stated.
        known: the scales that Q/DQ gave, by tensor.
        ranges: what calibration saw, by tensor.
    """
    graph = _Graph(model)
    scales = {name: Scale(value, "q/dq") for name, value in known.items() if name in graph.floats}
    _pass_on_(graph, scales)
    for name, seen in ranges.items():
        reach = float(np.abs([*seen.low, *seen.high]).max())
        if name in graph.floats and name not in scales and reach > 0:
            scales[name] = Scale(reach / LEVELS, "range")
    _pass_on_(graph, scales)
    scales |= {name: Scale(value, "constant") for name, value in _constants(model) if name not in scales}
    return scales


class _Graph:
    """What passing on asks of a network."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.floats = float_tensors(model)
        self.inputs = [value.name for value in model.graph.input if value.name in self.floats]
        self.outputs = frozenset(value.name for value in model.graph.output)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)


def _pass_on_(graph: _Graph, scales: dict[str, Scale]) -> None:
    """Give scales on, against the flow first, as that changes no number, until none is added."""
    before = -1
    while len(scales) > before:
        before = len(scales)
        for node in reversed(graph.nodes):
            for tensor in node.output:
                if tensor in graph.floats and tensor not in scales:
                    _against_flow_(graph, tensor, scales)
        for tensor in graph.inputs:
            _against_flow_(graph, tensor, scales)
        for node in graph.nodes:
            _with_flow_(graph, node, scales)


def _against_flow_(graph: _Graph, tensor: str, scales: dict[str, Scale]) -> None:
    """The coarsest scale that a tensor's readers ask for, where each one asks: no value that one reads is clipped."""
    readers = graph.readers.get(tensor, [])
    if tensor in scales or tensor in graph.outputs or not readers:
        return
    asked = [_asked(graph, node, tensor, scales) for node in readers]
    known = [value for value in asked if value is not None]
    if len(known) == len(asked):
        scales[tensor] = Scale(max(known), "passed on")


def _asked(graph: _Graph, node: onnx.NodeProto, tensor: str, scales: Mapping[str, Scale]) -> float | None:
    """The scale that a reader's output gives its input, None if none."""
    if not _is_one_of(node, _PICKS, "nearest") or (node.op_type != "Concat" and tensor != node.input[0]):
        return None
    outputs = [name for name in node.output if name in graph.floats]
    known = [scales[name].value for name in outputs if name in scales]
    return max(known) if known and len(known) == len(outputs) else None


def _with_flow_(graph: _Graph, node: onnx.NodeProto, scales: dict[str, Scale]) -> None:
    """Give an input's scale to outputs that stay within its range; a Concat's, where its inputs have but one."""
    if not _is_one_of(node, _WITHIN, "linear"):
        return
    inputs = list(node.input) if node.op_type == "Concat" else list(node.input[:1])
    values = {scales[name].value if name in scales else None for name in inputs}
    value = values.pop() if len(values) == 1 else None
    for tensor in node.output:
        if value is not None and tensor in graph.floats:
            scales.setdefault(tensor, Scale(value, "passed on"))


def _is_one_of(node: onnx.NodeProto, operators: frozenset[str], resizing: str) -> bool:
    if not is_standard(node):
        return False
    if node.op_type == "Resize":
        mode = attribute(node, "mode", b"nearest")
        return mode in ({b"nearest"} if resizing == "nearest" else {b"nearest", b"linear"})
    return node.op_type in operators


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, float]]:
    """Scales of the float constants that TensorRT makes tensors of; any above zero for one of zeros."""
    values: dict[str, Array] = constant_values(model)
    for node in model.graph.node:
        for name in node.input if node.op_type in WITH_CONSTANT and is_standard(node) else ():
            if name in values and values[name].dtype == np.float32 and values[name].size:
                reach = float(np.abs(values[name]).max())
                yield name, reach / LEVELS if reach > 0 else 1.0
