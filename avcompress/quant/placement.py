"""Where a network is quantized: one pure policy over a small view of its operators.

TensorRT fuses Q/DQ by position, so the rules are its own: Q/DQ on the inputs of weighted operators and none on their
outputs, nothing between a convolution and its normalization or activation, and on the skip input of a residual addition
whose other input comes straight from an INT8 convolution, so that the addition joins that convolution's kernel.

Source: NVIDIA TensorRT documentation, "Working with Quantized Types"; NVIDIA Model Optimizer, onnx/quantization.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from avcompress.recipe import KeepFloat
from avcompress.spec import WEIGHTED, LayerPlan, RecipeError

_ACTIVATIONS = frozenset(
    {"BatchNormalization", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu"}
    | {"Selu", "Sigmoid", "Softplus", "Swish", "Tanh"}
)
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})
_NO_VALUES = frozenset({"Shape", "Size"})  # they pass on a tensor's shape, not what was computed

Edge = tuple[str, int]
"""One use of a tensor: an operator's name and the index of its input."""


@dataclass(frozen=True)
class Weight:
    """The constant operand of a weighted operator.

    Attributes:
        tensor: its name.
        index: the operator's input that it is.
        axis: its output channels.
    """

    tensor: str
    index: int
    axis: int


@dataclass(frozen=True)
class Op:
    """One operator, in the vocabulary of ONNX.

    Attributes:
        name: unique.
        kind: the ONNX operator type.
        inputs, outputs: tensor names; "" where an optional one is left out.
        weight: of a weighted operator that has a constant one.
        obstacle: why a weighted operator cannot be quantized; "" if it can.
        depthwise: a convolution with one input channel a group.
        macs: multiply-accumulates for one image.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: Weight | None = None
    obstacle: str = ""
    depthwise: bool = False
    macs: int = 0


@dataclass(frozen=True)
class GraphView:
    """A network as the policy sees it: operators in topological order, its outputs, its constants."""

    ops: tuple[Op, ...]
    outputs: tuple[str, ...]
    constants: frozenset[str]


@dataclass(frozen=True)
class Site:
    """One tensor that gets Q/DQ, with one scale for all its uses in `edges`; per channel along `axis` where set."""

    tensor: str
    edges: tuple[Edge, ...]
    axis: int | None = None


@dataclass(frozen=True)
class Placement:
    """What is quantized: activations and weights in graph order, and the plan of every weighted operator."""

    activations: tuple[Site, ...]
    weights: tuple[Site, ...]
    layers: tuple[LayerPlan, ...]


def place(view: GraphView, keep: KeepFloat) -> Placement:
    """Decide which tensors get Q/DQ, and the precision of every weighted operator.

    Raises RecipeError when a pattern of `keep.layers` matches no weighted operator.
    """
    reasons = _reasons_to_stay_float(view, keep)
    weighted = [op for op in view.ops if op.kind in WEIGHTED]
    int8 = [op for op in weighted if op.name not in reasons]
    edges = [(op.inputs[0], (op.name, 0)) for op in int8]
    edges += _residual_edges(view, frozenset(op.name for op in int8))
    weights = [(op.weight, op.name) for op in int8 if op.weight]
    return Placement(
        activations=tuple(Site(t, e) for t, e in _by_tensor(_in_graph_order(edges, view)).items()),
        weights=tuple(
            Site(t, e, next(w.axis for w, _ in weights if w.tensor == t))
            for t, e in _by_tensor([(w.tensor, (name, w.index)) for w, name in weights]).items()
        ),
        layers=tuple(
            LayerPlan(
                op.name, op.kind, "float" if op.name in reasons else "int8", reasons.get(op.name, "int8"), op.macs
            )
            for op in weighted
        ),
    )


def _in_graph_order(edges: list[tuple[str, Edge]], view: GraphView) -> list[tuple[str, Edge]]:
    position = {op.name: i for i, op in enumerate(view.ops)}
    return sorted(edges, key=lambda item: (position[item[1][0]], item[1][1]))


def _by_tensor(edges: list[tuple[str, Edge]]) -> dict[str, tuple[Edge, ...]]:
    grouped: dict[str, tuple[Edge, ...]] = {}
    for tensor, edge in edges:
        grouped[tensor] = (*grouped.get(tensor, ()), edge)
    return grouped


# --- which layers stay float


def _reasons_to_stay_float(view: GraphView, keep: KeepFloat) -> dict[str, str]:
    """The first reason that applies, by operator name."""
    patterns = _matched_patterns(view, keep.layers)
    heads = _heads(view) if keep.head else frozenset()
    axis_of: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for op in view.ops:
        if op.kind not in WEIGHTED:
            continue
        reason = _obstacle(op, view) or patterns.get(op.name, "")
        if not reason and op.name in heads:
            reason = "head: stays float (keep_float.head)"
        if not reason and op.depthwise and keep.depthwise:
            reason = "depthwise: stays float (keep_float.depthwise)"
        if not reason and op.weight and axis_of.setdefault(op.weight.tensor, op.weight.axis) != op.weight.axis:
            reason = "weight shared with a layer that has its output channels on another axis"
        if reason:
            reasons[op.name] = reason
    return reasons


def _obstacle(op: Op, view: GraphView) -> str:
    if op.kind == "ConvTranspose":
        return "transposed convolution: TensorRT computes it in FP16"
    if op.obstacle:
        return op.obstacle
    if op.weight is None:
        return "dynamic weight"
    return "constant input" if op.inputs[0] in view.constants else ""


def _matched_patterns(view: GraphView, patterns: tuple[str, ...]) -> dict[str, str]:
    """The reason of every weighted operator that a pattern names."""
    names = {op.name: _names(op) for op in view.ops if op.kind in WEIGHTED}
    reasons: dict[str, str] = {}
    for pattern in patterns:
        hits = [op for op, own in names.items() if any(fnmatchcase(name, pattern) for name in own)]
        if not hits:
            raise RecipeError(_no_match(pattern, sorted({name for own in names.values() for name in own})))
        for op in hits:
            reasons.setdefault(op, f"pattern {pattern!r}")
    return reasons


def _names(op: Op) -> tuple[str, ...]:
    return (op.name, *((op.weight.tensor,) if op.weight else ()), *op.outputs)


def _no_match(pattern: str, names: list[str]) -> str:
    near = difflib.get_close_matches(pattern.strip("*"), names, n=3, cutoff=0.0)
    return (
        "keep_float.layers: expected patterns that match a weighted layer's node, weight or output name, "
        f"got {pattern!r}; the nearest names are {', '.join(near) or '(the network has no weighted layer)'}"
    )


def _heads(view: GraphView) -> frozenset[str]:
    """The weighted operators with no other one between them and a graph output."""
    producer = _producers(view)
    heads: set[str] = set()
    seen: set[str] = set()
    stack = list(view.outputs)
    while stack:
        tensor = stack.pop()
        op = producer.get(tensor)
        if tensor in seen or op is None or op.kind in _NO_VALUES:
            continue
        seen.add(tensor)
        if op.kind in WEIGHTED:
            heads.add(op.name)
        else:
            stack.extend(op.inputs)
    return frozenset(heads)


def _producers(view: GraphView) -> dict[str, Op]:
    return {tensor: op for op in view.ops for tensor in op.outputs if tensor}


# --- residual additions


def _residual_edges(view: GraphView, int8: frozenset[str]) -> Iterator[tuple[str, Edge]]:
    """The skip input of every addition that can join the kernel of an INT8 convolution."""
    producer = _producers(view)
    for op in view.ops:
        if op.kind == "Add" and len(set(op.inputs)) == 2 and not view.constants.intersection(op.inputs):
            fused = _fused_input(op, producer, int8, view)
            if fused is not None:
                yield op.inputs[1 - fused], (op.name, 1 - fused)


def _fused_input(add: Op, producer: Mapping[str, Op], int8: frozenset[str], view: GraphView) -> int | None:
    """The input of an addition that its convolution computes along with it; None when there is none."""
    backbones = [_backbone(tensor, producer, int8, view.constants) for tensor in add.inputs]
    if backbones[0] == backbones[1]:  # neither, or both are activations of one convolution
        return None
    if None in backbones:
        return 1 - backbones.index(None)
    # The skip is the shorter way from where the two parted.
    first, second = (_distances(tensor, producer, view.constants) for tensor in add.inputs)
    order = {op.name: i for i, op in enumerate(view.ops)}
    common = sorted(first.keys() & second.keys(), key=lambda t: (order[producer[t].name] if t in producer else -1, t))
    return 1 if common and second[common[-1]] > first[common[-1]] else 0


def _backbone(tensor: str, producer: Mapping[str, Op], int8: frozenset[str], constants: frozenset[str]) -> str | None:
    """The INT8 operator whose output, normalized and activated at most, is this tensor."""
    step: str | None = tensor
    while step is not None:
        op = producer.get(step)
        if op is None:
            return None
        if op.name in int8:
            return op.name
        step = _activated(op, producer, constants)
    return None


def _activated(op: Op, producer: Mapping[str, Op], constants: frozenset[str]) -> str | None:
    """The tensor that an activation is applied to; None if the operator is none, or joins two tensors."""
    alone = _only_input(op, constants)
    if alone is not None or op.kind != "Mul" or len(op.inputs) != 2:
        return alone
    left, right = op.inputs
    if right in _chain(left, producer, constants):
        return right
    return left if left in _chain(right, producer, constants) else None


def _only_input(op: Op, constants: frozenset[str]) -> str | None:
    """The one input that is not constant, of an activation or of arithmetic with constants."""
    data = [tensor for tensor in op.inputs if tensor and tensor not in constants]
    return data[0] if len(data) == 1 and op.kind in _ACTIVATIONS | _ARITHMETIC else None


def _chain(tensor: str, producer: Mapping[str, Op], constants: frozenset[str]) -> Iterator[str]:
    """The tensors that this one is an element-wise function of: x * sigmoid(x) reaches x from its gate."""
    step: str | None = tensor
    while step is not None:
        yield step
        op = producer.get(step)
        step = _only_input(op, constants) if op else None


def _distances(tensor: str, producer: Mapping[str, Op], constants: frozenset[str]) -> dict[str, int]:
    """The number of operators between this tensor and each one it depends on."""
    found = {tensor: 0}
    queue = [tensor]
    for reached in queue:  # grows while it is walked: breadth first
        op = producer.get(reached)
        for source in op.inputs if op else ():
            if source and source not in constants and source not in found:
                found[source] = found[reached] + 1
                queue.append(source)
    return found
