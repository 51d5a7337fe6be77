"""Where a network is quantized: one pure policy over a small view of its operators.

TensorRT fuses Q/DQ by position, so the rules are its own: Q/DQ on the inputs of weighted operators and none on their
outputs, nothing between a convolution and its normalization, activation or multiplication by constants, and on the skip
input of a residual addition whose other input comes straight from an INT8 convolution, so that the addition joins that
convolution's kernel. Pooling, resizing, splitting and concatenation get none of their own: Q/DQ passes through, and
`ties` names the tensors that should have one scale for it.

Source: NVIDIA TensorRT documentation, "Working with Quantized Types"; NVIDIA Model Optimizer, onnx/quantization.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from avcompress.quant.placement.patterns import (
    Links,
    decodes,
    fused_input,
    gates,
    heads,
    is_first,
    link,
    splits_attention,
)
from avcompress.quant.placement.rules import LARGEST_FP8_KERNEL, Rules, rules_for
from avcompress.quant.placement.ties import ties
from avcompress.quant.placement.view import Edge, GraphView, Op, Placement, Site, Weight
from avcompress.recipe import KeepFloat
from avcompress.spec import WEIGHTED, LayerPlan, RecipeError

__all__ = ["EVERYTHING", "QUANTIZED", "WEIGHTED", "Edge", "GraphView", "Op", "Placement", "Site", "Weight", "place"]

QUANTIZED = "input and weight are quantized"
EVERYTHING = KeepFloat(head=False, depthwise=False, squeeze_excite=False, attention_split=False, small_channels=0)
"""Leaves float what no choice could quantize."""


def place(
    view: GraphView,
    keep: KeepFloat,
    rules: Literal["tensorrt", "cpu"] = "tensorrt",
    number_format: Literal["int8", "fp8"] = "int8",
) -> Placement:
    """Decide which tensors get Q/DQ, and which weighted operators: these are planned as int8, whatever the format.

    Raises RecipeError when a pattern of `keep.layers` matches no weighted operator.
    """
    links = link(view)
    weighted = [op for op in view.ops if op.kind in WEIGHTED]
    reasons = _reasons_to_stay_float(weighted, links, keep, rules_for(rules, number_format))
    int8 = [op for op in weighted if op.name not in reasons]
    edges = [(op.inputs[0], (op.name, 0)) for op in int8]
    edges += _residual_edges(links, frozenset(op.name for op in int8))
    activations = tuple(Site(tensor, uses) for tensor, uses in _by_tensor(_in_graph_order(edges, view)).items())
    return Placement(
        activations=activations,
        weights=_weight_sites(int8),
        layers=tuple(_plan(op, reasons.get(op.name)) for op in weighted),
        ties=ties([site.tensor for site in activations], links),
    )


def _plan(op: Op, reason: str | None) -> LayerPlan:
    if reason is None:
        return LayerPlan(op.name, op.kind, "int8", QUANTIZED, op.macs)
    return LayerPlan(op.name, op.kind, "float", reason, op.macs)


def _weight_sites(int8: Iterable[Op]) -> tuple[Site, ...]:
    weights = [(op.weight, op.name) for op in int8 if op.weight]
    axis = {weight.tensor: weight.axis for weight, _ in weights}
    uses = _by_tensor((weight.tensor, (name, weight.index)) for weight, name in weights)
    return tuple(Site(tensor, edges, axis[tensor]) for tensor, edges in uses.items())


def _in_graph_order(edges: Iterable[tuple[str, Edge]], view: GraphView) -> list[tuple[str, Edge]]:
    position = {op.name: i for i, op in enumerate(view.ops)}
    return sorted(edges, key=lambda item: (position[item[1][0]], item[1][1]))


def _by_tensor(edges: Iterable[tuple[str, Edge]]) -> dict[str, tuple[Edge, ...]]:
    grouped: dict[str, tuple[Edge, ...]] = {}
    for tensor, edge in edges:
        grouped[tensor] = (*grouped.get(tensor, ()), edge)
    return grouped


def _residual_edges(links: Links, int8: frozenset[str]) -> Iterator[tuple[str, Edge]]:
    """The skip input of every addition that can join the kernel of an INT8 convolution."""
    for op in links.view.ops:
        fused = fused_input(op, links, int8)
        if fused is not None:
            yield op.inputs[1 - fused], (op.name, 1 - fused)


# --- which layers stay float


@dataclass(frozen=True)
class _Case:
    """What a layer's reason is looked up in: its network, and what is known of all its layers."""

    links: Links
    keep: KeepFloat
    rules: Rules
    patterns: dict[str, str]
    heads: frozenset[str]
    gates: frozenset[str]


def _reasons_to_stay_float(weighted: list[Op], links: Links, keep: KeepFloat, rules: Rules) -> dict[str, str]:
    """The first reason that applies, by operator name."""
    case = _Case(
        links,
        keep,
        rules,
        patterns=_matched_patterns(weighted, keep.layers),
        heads=heads(links) if keep.head else frozenset(),
        gates=gates(links),
    )
    axis_of: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for op in weighted:
        reason = _obstacle(op, case) or case.patterns.get(op.name) or _role(op, case) or _size(op, case)
        if not reason and op.weight and axis_of.setdefault(op.weight.tensor, op.weight.axis) != op.weight.axis:
            reason = "weight shared with a layer that has its output channels on another axis"
        if reason:
            reasons[op.name] = reason
    return reasons


def _obstacle(op: Op, case: _Case) -> str:
    """Why no choice of the user's could quantize this layer."""
    why = case.rules.transposed if op.groups == 1 else case.rules.grouped_transposed
    if op.kind == "ConvTranspose" and why:
        return f"transposed convolution: {why}"
    if op.obstacle:
        return op.obstacle
    if op.weight is None:
        return "no constant weight: a product of two activations, as in attention"
    if op.inputs[0] in case.links.view.constants:
        return "its input is constant"
    if case.rules.large_fp8 and op.kind == "Conv" and math.prod(op.kernel) > LARGEST_FP8_KERNEL:
        return f"kernel of more than {LARGEST_FP8_KERNEL} values in FP8: {case.rules.large_fp8}"
    return "box decoding: the mean of a softmax" if decodes(op, case.links) else ""


def _role(op: Op, case: _Case) -> str:
    if op.name in case.heads:
        return "head: a last layer before an output (keep_float.head)"
    if op.name in case.gates:
        return _unless_asked(
            "squeeze-and-excite", case.keep.squeeze_excite, "squeeze_excite", case.rules.squeeze_excite
        )
    if splits_attention(op, case.links):
        return _unless_asked(
            "query, key and value in one", case.keep.attention_split, "attention_split", case.rules.attention_split
        )
    return ""


def _size(op: Op, case: _Case) -> str:
    if op.depthwise:
        return _unless_asked("depthwise", case.keep.depthwise, "depthwise", case.rules.depthwise)
    fewest = case.rules.small_channels if case.keep.small_channels is None else case.keep.small_channels
    narrow = op.kind == "Conv" and 0 < min(op.channels) // op.groups < fewest
    return (
        f"fewer than {fewest} channels (keep_float.small_channels)" if narrow and not is_first(op, case.links) else ""
    )


def _unless_asked(what: str, asked: bool | None, key: str, why: str) -> str:
    """The reason of a kind of layer: the recipe's wish, and without one the target's rule."""
    if asked is None:
        return f"{what}: {why}" if why else ""
    return f"{what} (keep_float.{key})" if asked else ""


def _matched_patterns(weighted: list[Op], patterns: tuple[str, ...]) -> dict[str, str]:
    """The reason of every weighted operator that a pattern names."""
    names = {op.name: _names(op) for op in weighted}
    reasons: dict[str, str] = {}
    for pattern in patterns:
        hits = [op for op, own in names.items() if any(fnmatchcase(name, pattern) for name in own)]
        if not hits:
            raise RecipeError(_no_match(pattern, sorted({name for own in names.values() for name in own})))
        for op in hits:
            reasons.setdefault(op, f"named by keep_float.layers: {pattern!r}")
    return reasons


def _names(op: Op) -> tuple[str, ...]:
    return (op.name, *((op.weight.tensor,) if op.weight else ()), *op.outputs)


def _no_match(pattern: str, names: list[str]) -> str:
    near = difflib.get_close_matches(pattern.strip("*"), names, n=3, cutoff=0.0)
    return (
        "keep_float.layers: expected patterns that match a weighted layer's node, weight or output name, "
        f"got {pattern!r}; the nearest names are {', '.join(near) or '(the network has no weighted layer)'}"
    )
