"""Batch normalization as a layer of torch, which keeps statistics of its own and may learn others."""

from __future__ import annotations

import onnx
import torch
from torch import nn

from avcompress.onnx_import.constants import as_tensor
from avcompress.onnx_import.operand import OnnxNode
from avcompress.spec import Array

Four = tuple[str, ...]
"""The constants of a normalization, by name: scale, bias, mean, variance."""
_LAYERS: dict[int, type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def four_of(node: onnx.NodeProto) -> Four:
    """The names of a BatchNormalization's constants; nothing of another node."""
    return tuple(node.input[1:5]) if node.op_type == "BatchNormalization" else ()


def separate_norms(graph: onnx.GraphProto) -> frozenset[Four]:
    """Of the graph's batch normalizations those that can change alone: no other node reads one of their constants.

    They are initializers, float32 and four. Nodes that have the same four are one layer, used several times.
    """
    floats = {item.name for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    readers: dict[str, set[Four]] = {}
    for node in graph.node:
        four = four_of(node)
        for index, name in enumerate(node.input):
            readers.setdefault(name, set()).add(four if index else ())
    for output in graph.output:
        readers.setdefault(output.name, set()).add(())
    fours = {four_of(node) for node in graph.node} - {()}
    return frozenset(
        four
        for four in fours
        if len(set(four)) == len(four) and floats.issuperset(four) and all(readers[name] == {four} for name in four)
    )


def norm_layer(node: OnnxNode) -> nn.Module:
    """The layer, in eval mode, with the node's constants; ONNX counts momentum from the other end."""
    values = [_constant(node, index) for index in range(1, 5)]
    momentum = round(1 - float(node.attribute("momentum", 0.9)), 6)
    epsilon = float(node.attribute("epsilon", 1e-5))
    layer = _LAYERS[node.x.rank](len(values[0]), eps=epsilon, momentum=momentum)
    names = ("weight", "bias", "running_mean", "running_var")
    held = layer.state_dict()
    with torch.no_grad():
        for name, value in zip(names, values, strict=True):
            held[name].copy_(as_tensor(value))
    return layer.eval()


def _constant(node: OnnxNode, index: int) -> Array:
    value = node.constant(index)
    if value is None:
        raise node.error(f"an input {index}", "none", "export the model again")
    return value
