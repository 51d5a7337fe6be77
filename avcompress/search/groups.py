"""Layers that must change precision together, and the values that pass from one group to the next.

Layers that read one tensor, or multiply by one constant, are a group: a tensor has one format for all who read it, or
it is written, and converted, once for each. What only moves a tensor (a pooling, a slice) makes another one of it.

A passage is where a conversion may stand: values that leave one group and enter another. Between them there may be
activations and whatever else has no weight; the conversion stands where the fewest values pass. The parts of a
concatenation are converted each by itself; the operands of an addition share the conversion of their sum.

Source: groups as in NVIDIA Model Optimizer, torch/quantization/algorithms.py, `AutoQuantizeSearcher`, which has them
for linear layers; Q/DQ that moves through what moves values: NVIDIA TensorRT documentation, "Explicit Quantization".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.patterns import Links, link
from avcompress.quant.placement.view import GraphView, Op
from avcompress.spec import WEIGHTED
from engines.onnx_graph import shapes

OUTSIDE = ""
"""The group that stands for the network's inputs and outputs; they are FP32."""


@dataclass(frozen=True)
class Group:
    """Layers that have one precision.

    Attributes:
        name: its first layer's.
        layers: names of weighted nodes, in graph order.
        macs: of all of them for one image; 0 where unknown.
    """

    name: str
    layers: tuple[str, ...]
    macs: int


@dataclass(frozen=True)
class Passage:
    """Values that one group gives and another reads; OUTSIDE where that is the network's input or output."""

    source: str
    target: str
    values: float


@dataclass(frozen=True)
class Layout:
    """A network as a search sees it: groups in graph order, and what passes between them."""

    groups: tuple[Group, ...]
    passages: tuple[Passage, ...]

    @property
    def group_of(self) -> Mapping[str, str]:
        """The name of each layer's group."""
        return {layer: group.name for group in self.groups for layer in group.layers}


def layout_of(model: onnx.ModelProto) -> Layout:
    """The groups of a float network as `quant.plan.prepare` returns it."""
    view = graph_view(model)
    groups = _groups(view)
    sizes = {name: math.prod(shape) for name, shape in shapes(model).items()}
    return Layout(groups, _passages(link(view), groups, sizes))


def _groups(view: GraphView) -> tuple[Group, ...]:
    layers = [op for op in view.ops if op.kind in WEIGHTED]
    leader: dict[str, str] = {}
    for op in layers:
        for tensor in _operands(op, view):
            leader.setdefault(tensor, tensor)
        first, *others = _operands(op, view)
        for tensor in others:
            leader[_find(tensor, leader)] = _find(first, leader)
    members: dict[str, list[Op]] = {}
    for op in layers:
        members.setdefault(_find(_operands(op, view)[0], leader), []).append(op)
    return tuple(
        Group(ops[0].name, tuple(op.name for op in ops), sum(op.macs for op in ops)) for ops in members.values()
    )


def _operands(op: Op, view: GraphView) -> tuple[str, ...]:
    """What binds a layer to others: the values it reads, and its weight; a bias is of no format."""
    weight = (op.weight.tensor,) if op.weight else ()
    data = tuple(tensor for tensor in op.inputs[:2] if tensor and tensor not in view.constants)
    return (*data, *weight) or (op.name,)


def _find(tensor: str, leader: Mapping[str, str]) -> str:
    while leader[tensor] != tensor:
        tensor = leader[tensor]
    return tensor


# --- passages


def _passages(links: Links, groups: Iterable[Group], sizes: Mapping[str, int]) -> tuple[Passage, ...]:
    """In the order of their targets, then of how they are found; a tensor that several layers read passes once."""
    owner = {layer: group.name for group in groups for layer in group.layers}
    ops = {op.name: op for op in links.view.ops}
    read = {
        (group.name, tensor): None for group in groups for layer in group.layers for tensor in links.data(ops[layer])
    }
    read |= {(OUTSIDE, tensor): None for tensor in links.view.outputs}
    found: dict[tuple[str, str], float] = {}
    for target, tensor in read:
        for source, values in _sources(tensor, links, owner, sizes):
            if (source, target) != (OUTSIDE, OUTSIDE):
                found[source, target] = found.get((source, target), 0.0) + values
    return tuple(Passage(source, target, values) for (source, target), values in found.items())


def _sources(
    tensor: str, links: Links, owner: Mapping[str, str], sizes: Mapping[str, int]
) -> Iterator[tuple[str, float]]:
    """The groups that a tensor is made by, each with how many of its values are converted for them."""
    reached = {tensor: float(sizes.get(tensor, 0))}
    for op in reversed(links.view.ops):
        own = [name for name in op.outputs if name in reached]
        if not own:
            continue
        values = sum(reached.pop(name) for name in own)
        if op.name in owner:
            yield owner[op.name], values
            continue
        data = list(dict.fromkeys(links.data(op)))
        for source in data:
            share = values * _part(source, data, sizes)
            reached[source] = reached.get(source, 0.0) + min(share, float(sizes.get(source, share)))
    yield from ((OUTSIDE, values) for values in reached.values())


def _part(source: str, data: list[str], sizes: Mapping[str, int]) -> float:
    """An operand's share among those that one operator joins: by their sizes, or all alike where one is unknown."""
    total = sum(sizes[name] for name in data if name in sizes)
    return sizes[source] / total if total and sizes.keys() >= set(data) else 1 / len(data)
