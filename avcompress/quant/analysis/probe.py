"""Measures all layers' errors in one pass: the float network, the quantized one and layer variants in one graph.

The graph squares and sums the differences itself, so that no activation leaves it: memory is one image's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from avcompress.quant.analysis.restore import PARTS, Part, quantized_layers
from avcompress.spec import WEIGHTED, Batch, DataError, ModelError
from engines import onnx_graph
from engines.in_memory import open_model

_TWIN = "quantized/"
_LOCAL = "local/"


class Power(NamedTuple):
    """Sums of squares over the images at one layer's output.

    Attributes:
        signal: of the float network.
        error: of what quantizing this layer alone adds there, given float inputs.
        weights, activations: the same for its weights alone, and for its inputs alone.
        depth: of the difference that the whole quantized network has there.
    """

    signal: float
    error: float
    weights: float
    activations: float
    depth: float


def probe(model: onnx.ModelProto, reference: onnx.ModelProto, batches: Iterable[Batch]) -> dict[str, Power]:
    """The error at the output of every quantized weighted layer, by node name in graph order.

    Args:
        model: with Q/DQ.
        reference: the float network it was made from; nodes and tensors have the same names.
        batches: the images to measure on.

    Raises DataError when there is none.
    """
    weighted = {node.name for node in reference.graph.node if node.op_type in WEIGHTED}
    layers = [name for name in quantized_layers(model, reference) if name in weighted]
    session = open_model(_merged(model, reference, layers))
    names = [output.name for output in session.get_outputs()]
    total = np.zeros(len(names))
    images = 0
    for batch in batches:
        total += np.array(session.run(names, dict(batch)), np.float64)
        images += 1
    if not images:
        raise DataError("error analysis: expected at least one image, got none; check data.calibration")
    sums = dict(zip(names, total.tolist(), strict=True))
    return {layer: Power(*(sums[f"{layer}:{kind}"] for kind in Power._fields)) for layer in layers}


def _merged(model: onnx.ModelProto, reference: onnx.ModelProto, layers: list[str]) -> onnx.ModelProto:
    """Both networks side by side on one input, the layers' variants, and their sums of squares as outputs."""
    merged = onnx_graph.copy(model)
    graph = merged.graph
    for field in ("node", "initializer", "output", "value_info"):
        graph.ClearField(field)
    constants = onnx_graph.initializers(model)
    there = {value.name for value in reference.graph.input} | {o for node in reference.graph.node for o in node.output}
    twins = _Names(_TWIN, {value.name for value in reference.graph.input}, frozenset(constants))
    local = _Names(_LOCAL, there, frozenset(constants))
    graph.initializer.extend(reference.graph.initializer)
    for tensor in model.graph.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = _TWIN + tensor.name
    graph.node.extend(reference.graph.node)
    graph.node.extend(twins.renamed(node) for node in model.graph.node)
    own = {node.name for node in reference.graph.node}
    # What the quantized network has beside the float one's nodes: Q/DQ, here fed with float values.
    graph.node.extend(local.renamed(node) for node in model.graph.node if node.name not in own)
    nodes = {node.name: node for node in model.graph.node}
    originals = {node.name: node for node in reference.graph.node}
    for layer in layers:
        _measure_(graph, originals[layer], local.renamed(nodes[layer]))
    return onnx_graph.drop_unused(_sorted(merged))


class _Names(NamedTuple):
    """How a copy of the quantized network names its tensors."""

    prefix: str
    shared: Collection[str]
    constants: frozenset[str]

    def renamed(self, node: onnx.NodeProto) -> onnx.NodeProto:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.name = self.prefix + node.name
        new.input[:] = [self._tensor(name) for name in node.input]
        new.output[:] = [self.prefix + name if name else "" for name in node.output]
        for graph in onnx_graph.subgraphs(new):
            self._rename_captured_(graph, frozenset())
        return new

    def _rename_captured_(self, graph: onnx.GraphProto, local: frozenset[str]) -> None:
        """What a branch reads of the graph around it has the copy's names, too; its own tensors keep theirs."""
        local |= {value.name for value in (*graph.input, *graph.initializer)}
        local |= {name for node in graph.node for name in node.output}
        for node in graph.node:
            node.input[:] = [name if name in local else self._tensor(name) for name in node.input]
            for inner in onnx_graph.subgraphs(node):
                self._rename_captured_(inner, local)
        for output in graph.output:
            output.name = output.name if output.name in local else self._tensor(output.name)

    def _tensor(self, name: str) -> str:
        if name in self.constants:
            return _TWIN + name
        return name if not name or name in self.shared else self.prefix + name


def _measure_(graph: onnx.GraphProto, original: onnx.NodeProto, local: onnx.NodeProto) -> None:
    """Add a layer's variants and the sums of squares that make up its Power."""
    output = original.output[0]
    for kind, parts in (("error", PARTS), ("weights", PARTS[:1]), ("activations", PARTS[1:])):
        variant = onnx.NodeProto()
        variant.CopyFrom(local)
        variant.name, variant.output[0] = f"{kind}/{original.name}", f"{kind}/{output}"
        variant.input[:] = _mixed(original, local, parts)
        graph.node.append(variant)
        _add_power_(graph, f"{original.name}:{kind}", (variant.output[0], output))
    _add_power_(graph, f"{original.name}:depth", (_TWIN + output, output))
    _add_power_(graph, f"{original.name}:signal", (output,))


def _mixed(original: onnx.NodeProto, local: onnx.NodeProto, parts: Collection[Part]) -> list[str]:
    """The inputs of a layer of which only some parts are quantized; a bias goes with the weights."""
    names = list(original.input)
    for index, name in enumerate(local.input):
        part: Part = "weights" if index else "activations"
        if part in parts:
            names[index : index + 1] = [name]
    return names


def _add_power_(graph: onnx.GraphProto, name: str, tensors: tuple[str, ...]) -> None:
    """Add an output: the sum of squares of a tensor, or of the difference of two."""
    source = tensors[0]
    if len(tensors) > 1:
        source = f"{name}:difference"
        graph.node.append(helper.make_node("Sub", list(tensors), [source], source))
    graph.node.append(helper.make_node("ReduceSumSquare", [source], [name], name, keepdims=0))
    graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ()))


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes in topological order, which ONNX demands; raises ModelError where there is none."""
    new = onnx_graph.copy(model)
    known = {value.name for value in (*new.graph.input, *new.graph.initializer)} | {""}
    waiting = list(model.graph.node)
    # A node's inputs include what its branches mention, tensors of their own among them: nobody waits for those.
    unknown = {name for node in waiting for name in node.output} - known
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = [node for node in waiting if unknown.isdisjoint(onnx_graph.node_inputs(node))]
        if not ready:
            raise ModelError(
                f"error analysis: expected the float network with Q/DQ, got another at node {waiting[0].name!r}; "
                "analyze the network that `ptq` made"
            )
        unknown.difference_update(name for node in ready for name in node.output)
        done = {node.name for node in ready}
        ordered += ready
        waiting = [node for node in waiting if node.name not in done]
    new.graph.ClearField("node")
    new.graph.node.extend(ordered)
    return new
