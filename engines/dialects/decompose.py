"""Newer operators written by older ones, for parsers that lack them.

TensorRT 8.5 has no LayerNormalization, and neither 8.5 nor 8.6 has Gelu, Mish or RMSNormalization.
Source: the parser's table of operators, onnx/onnx-tensorrt release/8.5-GA and release/8.6-GA; ONNX's function bodies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx

from avcompress.spec import ModelError
from engines.onnx_graph import check, fold_constants, infer_shapes, is_standard, name_nodes
from engines.opset import opset_of

_AXES_AS_INPUT = 18  # of ReduceMean


def decomposed(model: onnx.ModelProto, operators: Collection[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The network without these operators, as far as they are in DECOMPOSED.

    Args:
        model: with unique node names, and the types and shapes of its tensors stated.
        operators: by name.

    Returns: the network, and by the name of each new node that of the node whose part it is. Its other nodes, and all
    tensors that there were, keep their names.
    Raises ModelError for a node whose shape must be known and is not.
    """
    wanted = {node.name for node in model.graph.node if node.op_type in operators and is_standard(node)}
    if not wanted & {node.name for node in model.graph.node if node.op_type in DECOMPOSED}:
        return model, {}
    import onnx_graphsurgeon as gs  # here: a device that builds a network without such operators needs no such package

    graph = gs.import_onnx(model)
    parts: dict[str, str] = {}
    for node in [each for each in graph.nodes if each.name in wanted and each.op in DECOMPOSED]:
        writer = _Writer(gs, graph, node, opset_of(model))
        result = DECOMPOSED[node.op](writer)
        # The last new node makes the old tensor: it keeps its name, and its place among the network's outputs.
        maker = result.inputs[0]
        maker.outputs = [node.outputs[0]]
        node.outputs.clear()
        parts |= dict.fromkeys(writer.made, node.name)
    graph.cleanup().toposort()
    new = gs.export_onnx(graph, do_type_check=False)
    new.ir_version = model.ir_version
    # Graph surgery keeps names, types and values, but not the notes at nodes.
    notes = {node.name: node.metadata_props for node in model.graph.node}
    for each in new.graph.node:
        each.metadata_props.extend(notes.get(each.name, ()))
    new = check(infer_shapes(name_nodes(fold_constants(new))))
    left = {node.name for node in new.graph.node}
    return new, {part: whole for part, whole in parts.items() if part in left}


class _Writer:
    """Adds nodes in the place of one; each is named after it."""

    def __init__(self, gs: Any, graph: Any, node: Any, opset: int) -> None:
        self.gs, self.graph, self.node, self.opset = gs, graph, node, opset
        self.made: list[str] = []

    @property
    def x(self) -> Any:
        """The node's first input."""
        return self.node.inputs[0]

    def add(self, op: str, *inputs: Any, **attributes: Any) -> Any:
        """One node; returns its output."""
        name = f"{self.node.name}/{op}_{len(self.made)}"
        self.made.append(name)
        (output,) = self.graph.layer(
            op=op, name=name, inputs=list(inputs), outputs=[f"{name}_output"], attrs=attributes
        )
        output.dtype = self.x.dtype
        return output

    def number(self, value: float) -> Any:
        """A scalar of the input's type."""
        if self.x.dtype is None:
            raise self.unknown("type")
        return self.gs.Constant(self.name("value"), np.array(value, self.x.dtype))

    def integers(self, values: list[int]) -> Any:
        """A list, as for a shape."""
        return self.gs.Constant(self.name("list"), np.array(values, np.int64))

    def name(self, kind: str) -> str:
        """A tensor's name."""
        self.graph.name_idx += 1
        return f"{self.node.name}/{kind}_{self.graph.name_idx}"

    def mean(self, x: Any, axes: list[int]) -> Any:
        """The mean over axes, which stay with a length of 1."""
        if self.opset >= _AXES_AS_INPUT:
            return self.add("ReduceMean", x, self.integers(axes), keepdims=1)
        return self.add("ReduceMean", x, axes=axes, keepdims=1)

    def shape(self) -> list[int]:
        """The input's shape, its first axis as it comes."""
        shape = list(self.x.shape or ())
        if len(shape) < 3 or not all(isinstance(size, int) for size in shape[1:]):
            raise self.unknown("shape")
        return [0, *shape[1:]]

    def unknown(self, what: str) -> ModelError:
        """The error for a node of which something is not known."""
        return ModelError(
            f"node {self.node.name!r} ({self.node.op}): expected a known {what} of its input, got none; export the "
            "network with static shapes"
        )


def _normalization_axes(writer: _Writer) -> list[int]:
    axis = int(writer.node.attrs.get("axis", -1))
    if axis < 0:
        return list(range(axis, 0))
    if not writer.x.shape:
        raise writer.unknown("shape")
    return list(range(axis, len(writer.x.shape)))


def _layer_normalization(writer: _Writer) -> Any:
    axes, epsilon = _normalization_axes(writer), writer.number(float(writer.node.attrs.get("epsilon", 1e-5)))
    centred = writer.add("Sub", writer.x, writer.mean(writer.x, axes))
    variance = writer.mean(writer.add("Mul", centred, centred), axes)
    deviation = writer.add("Sqrt", writer.add("Add", variance, epsilon))
    scaled = writer.add("Mul", writer.add("Div", centred, deviation), writer.node.inputs[1])
    return writer.add("Add", scaled, writer.node.inputs[2]) if len(writer.node.inputs) > 2 else scaled


def _rms_normalization(writer: _Writer) -> Any:
    axes, epsilon = _normalization_axes(writer), writer.number(float(writer.node.attrs.get("epsilon", 1e-5)))
    square = writer.mean(writer.add("Mul", writer.x, writer.x), axes)
    root = writer.add("Sqrt", writer.add("Add", square, epsilon))
    return writer.add("Mul", writer.add("Div", writer.x, root), writer.node.inputs[1])


def _group_normalization(writer: _Writer) -> Any:
    """By way of InstanceNormalization, each group as one channel; ONNX has taken back the form of opset 18."""
    groups, shape = int(writer.node.attrs["num_groups"]), writer.shape()
    numbers = [writer.gs.Constant(writer.name(kind), np.full(groups, value, writer.x.dtype)) for kind, value in _UNIT]
    grouped = writer.add("Reshape", writer.x, writer.integers([0, groups, -1]))
    epsilon = float(writer.node.attrs.get("epsilon", 1e-5))
    normal = writer.add("InstanceNormalization", grouped, *numbers, epsilon=epsilon)
    whole = writer.add("Reshape", normal, writer.integers(shape))
    wide = writer.integers([1, shape[1], *[1] * (len(shape) - 2)])
    scale, bias = (writer.add("Reshape", each, wide) for each in writer.node.inputs[1:3])
    return writer.add("Add", writer.add("Mul", whole, scale), bias)


_UNIT = (("scale", 1), ("bias", 0))


def _gelu(writer: _Writer) -> Any:
    x, half, one = writer.x, writer.number(0.5), writer.number(1)
    if writer.node.attrs.get("approximate", "none") == "tanh":
        cube = writer.add("Mul", writer.add("Mul", x, x), x)
        inner = writer.add("Add", x, writer.add("Mul", cube, writer.number(0.044715)))
        curve = writer.add("Tanh", writer.add("Mul", inner, writer.number(math.sqrt(2 / math.pi))))
    else:
        curve = writer.add("Erf", writer.add("Mul", x, writer.number(math.sqrt(0.5))))
    return writer.add("Mul", writer.add("Mul", x, half), writer.add("Add", curve, one))


def _mish(writer: _Writer) -> Any:
    return writer.add("Mul", writer.x, writer.add("Tanh", writer.add("Softplus", writer.x)))


DECOMPOSED: Mapping[str, Callable[[_Writer], Any]] = {
    "Gelu": _gelu,
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _layer_normalization,
    "Mish": _mish,
    "RMSNormalization": _rms_normalization,
}
"""The operators that can be written by older ones; each function returns the tensor that replaces the node's output."""
