"""Repairs of where Q/DQ stand: taken out, moved behind an activation, or given one scale at a concatenation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from engines.lint.edit import Draft, bypass_, insert_pair_, set_grid_, sharing
from engines.lint.finding import Repair, Rule
from engines.lint.fusion import (
    WIDEST_SPREAD,
    Pair,
    before_activation,
    inside_activation,
    pairs,
    removable,
    residual_sides,
    scale_of,
    spread,
    tied_pairs,
    unread_elsewhere,
)
from engines.lint.layers import Move, layers, pair_to_move
from engines.lint.view import View
from engines.onnx_graph import is_standard

_ROUNDING_LESS = "one rounding less, and its clipping"


def take_out_doubles_(draft: Draft) -> Iterator[Repair]:
    """Take out pairs that follow equal ones."""
    for pair in pairs(draft.view):
        inner = draft.view.pair(pair[0].tensor)
        doubled = inner is not None and pair[0].same_grid(inner[1]) and inner[0].same_grid(inner[1])
        if doubled and removable(draft.view, pair):
            bypass_(draft, *pair)
            yield Repair("double_qdq", pair[0].label, "taken out")


def free_activations_(draft: Draft) -> Iterator[Repair]:
    """Take out, or put behind it, the pairs between a layer and its activation, and those inside one."""
    for pair in pairs(draft.view):
        if not removable(draft.view, pair) or draft.view.pair(pair[0].tensor) is not None:
            continue
        if before_activation(draft.view, pair):
            yield _freed_(draft, pair, "qdq_before_activation")
        elif inside_activation(draft.view, pair):
            yield _freed_(draft, pair, "qdq_inside_activation")


def _freed_(draft: Draft, pair: Pair, rule: Rule) -> Repair:
    relu = _relu_behind(draft.view, pair)
    bypass_(draft, *pair)
    if relu is None:
        return Repair(rule, pair[0].label, "taken out", _ROUNDING_LESS)
    insert_pair_(draft, relu.output[0], pair[0], draft.view.readers(relu.output[0]))
    return Repair(rule, pair[0].label, f"moved behind Relu {draft.view.label(relu)}")


def _relu_behind(view: View, pair: Pair) -> onnx.NodeProto | None:
    """The one Relu that reads a pair, if no Q/DQ of its own follow it: rounding then Relu is Relu then rounding."""
    readers = view.readers(pair[1].output)
    if len(readers) != 1 or readers[0].op_type != "Relu" or not pair[0].same_grid(pair[1]):
        return None
    output = readers[0].output[0]
    behind = view.uses.get(output, ())
    quantized = any(node.output[0] in view.quants for node, _ in behind)
    movable = behind and not quantized and output not in view.outputs and all(index >= 0 for _, index in behind)
    return readers[0] if movable else None


def free_additions_(draft: Draft) -> Iterator[Repair]:
    """Take out the pair on the layer's side of a residual addition whose other side has one."""
    for node in draft.view.nodes:
        sides = residual_sides(draft.view, node) if is_standard(node) and node.op_type == "Add" else None
        branch, skip = (draft.view.pair(side) for side in sides) if sides else (None, None)
        if branch is not None and skip is not None and unread_elsewhere(draft.view, branch):
            bypass_(draft, *branch)
            yield Repair("residual_conv_side", draft.view.label(node), "Q/DQ taken out", _ROUNDING_LESS)


def move_to_layers_(draft: Draft) -> Iterator[Repair]:
    """Round right before a layer what was rounded before a Relu, or a copy of values, that INT8 does not pass."""
    done: set[str] = set()
    found = layers(draft.view)
    for layer in found:
        tensor = layer.node.input[1 - layer.index]
        move = pair_to_move(draft.view, layer) if layer.data.kind == "blocked" else None
        # One pair a round: moving it may move what another would stand behind.
        if move is None or tensor in done or move.pair[0].output in done:
            continue
        done |= {tensor, move.pair[0].output}
        waiting = [each.node for each in found if each.node.input[1 - each.index] == tensor]
        insert_pair_(draft, tensor, move.pair[0], waiting)
        if _only_for(draft.view, move, waiting):
            bypass_(draft, *move.pair)
        yield Repair("not_int8_through", layer.label, "its input's Q/DQ are right before it now")


def _only_for(view: View, move: Move, waiting: list[onnx.NodeProto]) -> bool:
    """Whether nobody but these layers reads what a pair rounds."""
    ways = [
        view.readers(pair_or_node) for pair_or_node in (move.pair[1].output, *(n.output[0] for n in move.chain[1:]))
    ]
    last = view.readers(move.chain[0].output[0])
    outputs = view.outputs.intersection(node.output[0] for node in move.chain)
    alone = all(len(readers) == 1 for readers in ways) and all(any(node is each for each in waiting) for node in last)
    return alone and not outputs and removable(view, move.pair)


def tie_concats_(draft: Draft) -> Iterator[Repair]:
    """Give the pairs around each concatenation, and around those that share one of them, the widest of their scales."""
    groups: list[tuple[str, dict[str, Pair]]] = []
    for node in draft.view.nodes:
        found = tied_pairs(draft.view, node) if is_standard(node) and node.op_type == "Concat" else None
        merged = {pair[0].output: pair for pair in found or ()}
        near = [item for item in groups if item[1].keys() & merged.keys()]
        for _, other in near:
            merged |= other
        if merged and spread(merged.values()) <= WIDEST_SPREAD:
            groups = [item for item in groups if item not in near]
            groups.append((draft.view.label(node), merged))
    for label, group in groups:
        if spread(group.values()) > 1:
            yield _tied_(draft, label, group)


def _tied_(draft: Draft, label: str, group: dict[str, Pair]) -> Repair:
    scales = {name: scale for name, pair in group.items() if (scale := scale_of(pair)) is not None}
    widest = max(scales.values())
    for name, pair in group.items():
        if scales[name] != widest and pair[0].scale is not None:
            tied = np.asarray(widest, pair[0].scale.dtype).reshape(pair[0].scale.shape)
            set_grid_(draft, sharing(draft.view, pair[0]), tied, np.zeros(tied.shape, np.int8))
    wider = f"steps up to {spread(group.values()):.3g} times as wide"
    return Repair("concat_scales", label, "its Q/DQ share one scale", wider)
