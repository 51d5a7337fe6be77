"""Cuts a network into blocks: regions that one tensor enters and one leaves, with a few weighted layers each.

A residual addition or a concatenation and all that lies between it and where its branches parted is such a region, and
so is a layer with its activation. Small ones that follow each other are taken together.

Source of the choice of blocks: Li, Gong, Tan et al.: BRECQ: Pushing the Limit of Post-Training Quantization by Block
Reconstruction, arXiv:2102.05426.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from engines.onnx_graph import copy, infer_shapes, initializers, is_weighted, node_inputs, set_nodes_, use_counts

TOGETHER = 4
"""Layers that are taken together in one block where they are not of one region anyway."""
LARGEST = 24
"""Layers of a region, at most; larger ones are cut into what they consist of."""


@dataclass(frozen=True)
class Block:
    """A region of a graph.

    Attributes:
        source: the one tensor, constants apart, that its nodes read and do not compute.
        output: the one tensor that others read.
        nodes: names, in graph order.
        layers: those of its nodes that were counted.
    """

    source: str
    output: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]


def cut(model: onnx.ModelProto, layers: Collection[str]) -> tuple[Block, ...]:
    """The blocks of a float network that hold these layers, given by node name, in graph order; none twice."""
    graph = _Graph(model, frozenset(layers))
    covered: set[str] = set()
    blocks: list[Block] = []
    for node in reversed(model.graph.node):
        if node.name not in covered and len(node.output) == 1:
            block = graph.block(node.output[0], covered)
            if block is not None:
                blocks.append(block)
                covered.update(block.nodes)
    return tuple(reversed(blocks))


class _Graph:
    """A network's nodes by what they compute."""

    def __init__(self, model: onnx.ModelProto, layers: frozenset[str]) -> None:
        self.layers = layers
        self.order = {node.name: i for i, node in enumerate(model.graph.node)}
        self.producer = {output: node for node in model.graph.node for output in node.output if output}
        self.constants = initializers(model).keys()
        self.uses = use_counts(model)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for tensor in node_inputs(node):
                self.readers.setdefault(tensor, []).append(node)

    def block(self, output: str, covered: Collection[str]) -> Block | None:
        """The region that ends in a tensor: the smallest one with a layer, or a larger one of up to TOGETHER."""
        found: Block | None = None
        inside: list[onnx.NodeProto] = []
        frontier = {output}
        while frontier:
            # The latest first: then what is inside always has its readers inside, if they lead to the output.
            tensor = max(frontier, key=self._position)
            node = self.producer.get(tensor)
            if node is None or node.name in covered:
                break
            inside.append(node)
            frontier = (frontier - set(node.output)) | {t for t in node_inputs(node) if t and t not in self.constants}
            counted = [n.name for n in inside if n.name in self.layers]
            if len(counted) > (LARGEST if found is None else TOGETHER):
                break
            more = len(counted) > (len(found.layers) if found else 0)
            if more and len(frontier) == 1 and self._parts(*frontier) and self._closed(inside, output):
                found = _block(next(iter(frontier)), output, inside, counted)
        return found

    def _position(self, tensor: str) -> int:
        node = self.producer.get(tensor)
        return self.order[node.name] if node is not None else -1

    def _parts(self, tensor: str) -> bool:
        """Whether a block may begin here: not between a layer and its activation."""
        node = self.producer.get(tensor)
        return node is None or node.name not in self.layers or all(map(is_weighted, self.readers[tensor]))

    def _closed(self, nodes: list[onnx.NodeProto], output: str) -> bool:
        """Whether nothing outside reads what these nodes compute, but for the output."""
        inner: dict[str, int] = {}
        for node in nodes:
            for tensor in node_inputs(node):
                inner[tensor] = inner.get(tensor, 0) + 1
        return all(
            self.uses[tensor] == inner.get(tensor, 0)
            for node in nodes
            for tensor in node.output
            if tensor and tensor != output
        )


def _block(source: str, output: str, inside: list[onnx.NodeProto], layers: list[str]) -> Block:
    return Block(source, output, tuple(node.name for node in reversed(inside)), tuple(reversed(layers)))


def extract(model: onnx.ModelProto, source: str, output: str) -> onnx.ModelProto:
    """The part of a network, float or quantized, that computes one tensor from another."""
    return extract_between(model, (source,), (output,))


def extract_between(model: onnx.ModelProto, sources: Collection[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of a network that computes some tensors from others; its inputs are those of them that it reads."""
    new = copy(infer_shapes(model))
    values = {value.name: value for value in (*new.graph.input, *new.graph.output, *new.graph.value_info)}
    kept, needed = _leading_to(new, sources, outputs)
    unknown = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in (*sources, *outputs)}
    ends = [values.get(name, unknown[name]) for name in unknown]
    constants = [tensor for tensor in new.graph.initializer if tensor.name in needed]
    set_nodes_(new, kept)
    for field, kept_values in (
        (new.graph.input, [end for end in ends[: len(sources)] if end.name in needed]),
        (new.graph.output, ends[len(sources) :]),
        (new.graph.initializer, constants),
    ):
        saved = [type(value).FromString(value.SerializeToString()) for value in kept_values]
        del field[:]
        field.extend(saved)
    return new


def starts(model: onnx.ModelProto, known: Collection[str], outputs: Collection[str]) -> list[str]:
    """Which of the known tensors some others are computed from, with nothing known in between."""
    _, needed = _leading_to(model, known, outputs)
    return [name for name in known if name in needed]


def _leading_to(
    model: onnx.ModelProto, sources: Collection[str], outputs: Collection[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes between some tensors and others, in order, and all that is read by them or is one of the others."""
    given, needed = set(sources), set(outputs)
    kept = []
    for node in reversed(model.graph.node):
        if any(tensor in needed and tensor not in given for tensor in node.output):
            needed.update(node_inputs(node))
            kept.append(node)
    return kept[::-1], needed
