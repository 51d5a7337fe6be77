"""A network whose sizes are all constants: what it computes from shapes alone, as view(b, -1) does, is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import torch
from onnx import numpy_helper

from avcompress.onnx_import.constants import folded
from avcompress.onnx_import.operand import OnnxNode, Operand
from avcompress.spec import Array
from engines.onnx_graph import drop_unused_initializers, fold_constants, name_nodes, set_nodes_

Shapes = Mapping[str, tuple[int, ...]]


def with_constant_sizes(network: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """The network without the nodes that depend on shapes and constants alone; what they compute is an initializer.

    Args:
        network: not changed.
        shapes: of what it computes from its inputs, and of those.
    """
    new = name_nodes(fold_constants(network))
    outputs = {value.name for value in new.graph.output}
    kept: list[onnx.NodeProto] = []
    for node, values in _with_values(new, shapes):
        if values is None or outputs.intersection(node.proto.output):
            kept.append(node.proto)
        else:
            named = zip(node.proto.output, values, strict=False)
            new.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in named if name)
    set_nodes_(new, kept)
    return drop_unused_initializers(new)


def nodes_of(network: onnx.ModelProto, shapes: Shapes) -> Iterator[OnnxNode]:
    """The nodes of a network with constant sizes, their operands beside them."""
    return (node for node, _ in _with_values(network, shapes))


def _with_values(network: onnx.ModelProto, shapes: Shapes) -> Iterator[tuple[OnnxNode, tuple[Array, ...] | None]]:
    opset = next((o.version for o in network.opset_import if o.domain in {"", "ai.onnx"}), 1)
    known = {item.name: _constant(item.name, numpy_helper.to_array(item)) for item in network.graph.initializer}
    for proto in network.graph.node:
        inputs = tuple(_operand(name, known, shapes) if name else None for name in proto.input)
        node = OnnxNode(proto, inputs, opset)
        values = folded(node)
        if values is not None:
            known |= {name: _constant(name, value) for name, value in zip(proto.output, values, strict=False)}
        yield node, values


def _constant(name: str, value: Array) -> Operand:
    return Operand(name, torch.empty(value.shape, device="meta"), value)


def _operand(name: str, known: Mapping[str, Operand], shapes: Shapes) -> Operand:
    return known.get(name) or Operand(name, torch.empty(shapes[name], device="meta"))
