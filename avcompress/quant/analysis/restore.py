"""Takes quantization back from single layers of a quantized network, so that its effect can be measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import onnx

from engines import onnx_graph

Part = Literal["weights", "activations"]
PARTS: tuple[Part, ...] = ("weights", "activations")


def quantized_layers(model: onnx.ModelProto, reference: onnx.ModelProto) -> tuple[str, ...]:
    """The nodes that read other values in a quantized network than in the float one it was made from, in graph order.

    Weighted layers, and the additions whose skip side is quantized.
    """
    inputs = {node.name: list(node.input) for node in model.graph.node}
    return tuple(node.name for node in reference.graph.node if inputs.get(node.name, node.input) != list(node.input))


def restored(
    model: onnx.ModelProto, reference: onnx.ModelProto, layers: Collection[str], parts: Collection[Part] = PARTS
) -> onnx.ModelProto:
    """A copy of a quantized network in which these nodes read float values again.

    Args:
        model: with Q/DQ.
        reference: the float network it was made from; nodes and tensors have the same names.
        layers: names of nodes.
        parts: of a layer: its weights (and with them its bias, which a repair may have changed), its activations.
    """
    new = onnx_graph.copy(model)
    originals = {node.name: node for node in reference.graph.node if node.name in layers}
    constants = onnx_graph.initializers(reference)
    own = onnx_graph.initializers(new)
    for node in new.graph.node:
        if node.name in originals:
            _restore_(node, originals[node.name], constants, parts)
            for index, name in enumerate(node.input):
                if "weights" in parts and name in constants and _differ(own.get(name), constants[name]):
                    node.input[index] = _add_(new, constants[name], own)
    return onnx_graph.drop_unused(new)


def _restore_(
    node: onnx.NodeProto, original: onnx.NodeProto, constants: Mapping[str, object], parts: Collection[Part]
) -> None:
    if "weights" in parts:
        del node.input[len(original.input) :]  # a bias that a repair has added
    for index, tensor in enumerate(original.input):
        part = "weights" if tensor in constants else "activations"
        if part in parts:
            node.input[index] = tensor


def _differ(own: onnx.TensorProto | None, original: onnx.TensorProto) -> bool:
    return own is None or own.SerializeToString() != original.SerializeToString()


def _add_(model: onnx.ModelProto, original: onnx.TensorProto, own: dict[str, onnx.TensorProto]) -> str:
    """Add a constant of the float network under a name of its own; returns the name."""
    name = original.name if original.name not in own else f"{original.name}_float"
    if name not in own:
        own[name] = model.graph.initializer.add()
        own[name].CopyFrom(original)
        own[name].name = name
    return name
