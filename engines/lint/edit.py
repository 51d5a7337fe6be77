"""Changing a graph in place: new constants, pairs of Q/DQ taken out, put in, or put on another grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import helper, numpy_helper

from avcompress.spec import Array
from engines.lint.view import DEQUANTIZE, QUANTIZE, Quant, View, is_qdq, subgraphs, views
from engines.onnx_graph import copy, drop_unused_initializers, fresh, node_inputs, use_counts


@dataclass(frozen=True, eq=False)
class Draft:
    """A model that is being repaired: a copy, its view, and the names that are taken in it.

    The view shows the graph as it was when the draft was opened: what is changed shows in the next draft.
    """

    model: onnx.ModelProto
    view: View
    taken: set[str]
    before: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    retyped: set[str] = field(default_factory=set)

    def constant(self, value: Array, name: str) -> str:
        """Add an initializer; returns its name, the given one if it is free."""
        free = fresh(name, self.taken)
        self.model.graph.initializer.append(numpy_helper.from_array(value, free))
        return free

    def replace_by_constant(self, output: str, value: Array) -> None:
        """Put an initializer in the place of the node that makes a tensor."""
        self.dropped.add(output)
        self.model.graph.initializer.append(numpy_helper.from_array(value, output))


def open_draft(model: onnx.ModelProto, folder: Path | None) -> Draft:
    """Begin to repair a copy of a model."""
    new = copy(model)
    names = {node.name for node in new.graph.node} | set(use_counts(new))
    names |= {output for node in new.graph.node for output in node.output}
    names |= {tensor.name for tensor in new.graph.initializer} | {value.name for value in new.graph.input}
    return Draft(new, next(views(new, folder)), names)


def close_draft(draft: Draft) -> onnx.ModelProto:
    """The repaired model: new nodes in their places, Q/DQ and constants that nothing reads any more left out."""
    graph = draft.model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += draft.before.get(node.output[0] if node.output else "", [])
        if not node.output or node.output[0] not in draft.dropped:
            nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in _read(nodes, draft.view.outputs)]
    del graph.node[:]
    graph.node.extend(copies)
    made = {name for node in copies for name in node.output} | draft.view.outputs
    for value in [v for v in graph.value_info if v.name not in made or v.name in draft.retyped]:
        graph.value_info.remove(value)
    return drop_unused_initializers(draft.model)


def _read(nodes: list[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes without the Q/DQ and Constants that nothing reads."""
    read = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):  # in topological order, as ONNX demands
        if read.intersection(node.output) or not (is_qdq(node) or node.op_type == "Constant"):
            read.update(node_inputs(node))
            kept.append(node)
    return kept[::-1]


def set_grid_(draft: Draft, quants: Iterable[Quant], scale: Array, zero_point: Array) -> None:
    """Give Q/DQ another scale and zero point, in constants of their own."""
    first, *others = quants
    names = [
        draft.constant(scale, f"{first.output}_scale"),
        draft.constant(zero_point, f"{first.output}_zero_point"),
    ]
    for quant in (first, *others):
        node = quant.node
        node.input[1] = names[0]
        del node.input[2:]
        node.input.append(names[1])
        draft.retyped.add(quant.output)
        stated = [a for a in node.attribute if a.name == "output_dtype"]
        for attr in stated:  # the zero point says it now
            node.attribute.remove(attr)


def sharing(view: View, quant: Quant) -> list[Quant]:
    """The Q/DQ that write or read the same integers, the QuantizeLinear first."""
    integers = quant.output if quant.quantizes else quant.tensor
    source = view.quants.get(integers)
    readers = [view.quants.get(node.output[0]) for node in view.readers(integers)]
    return [each for each in (source, *readers) if each is not None]


def bypass_(draft: Draft, quantize: Quant, dequantize: Quant) -> None:
    """Take a pair out: what read its output reads what it rounded."""
    for node in draft.view.readers(dequantize.output):
        replace_input_(node, dequantize.output, quantize.tensor)


def replace_input_(node: onnx.NodeProto, old: str, new: str) -> None:
    """Let a node, and its subgraphs, read another tensor."""
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
    for graph in subgraphs(node):
        for inner in graph.node:
            replace_input_(inner, old, new)


def insert_pair_(draft: Draft, tensor: str, grid: Quant, readers: Iterable[onnx.NodeProto]) -> None:
    """Let nodes read a tensor through a new pair of Q/DQ with the scale and zero point of another."""
    quantized, dequantized = (fresh(f"{tensor}_{end}", draft.taken) for end in ("quantized", "dequantized"))
    parameters = list(grid.node.input[1:3])
    pair = [
        helper.make_node(op, [source, *parameters], [made], fresh(f"{tensor}_{op}", draft.taken))
        for op, source, made in ((QUANTIZE, tensor, quantized), (DEQUANTIZE, quantized, dequantized))
    ]
    for node in pair:
        node.domain = grid.node.domain
    nodes = list(readers)
    place = min(nodes, key=lambda node: next(i for i, each in enumerate(draft.view.nodes) if each is node))
    draft.before.setdefault(place.output[0], []).extend(pair)
    for node in nodes:
        replace_input_(node, tensor, dequantized)


def insert_(draft: Draft, before: str, op: str, inputs: list[str], made: str, axis: int | None = None) -> str:
    """Put a node before the one that makes the tensor `before`; returns its output, called `made` if that is free."""
    output = fresh(made, draft.taken)
    node = helper.make_node(op, inputs, [output], fresh(f"{made}_{op}", draft.taken))
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    draft.before.setdefault(before, []).append(node)
    return output
