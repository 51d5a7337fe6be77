"""A network whose float arithmetic is FP16 or BF16, strongly typed: every Cast is in the graph.

A node is cast where ONNX's schema lets its float operands be of the type; what the schema fixes, as the scales of a
Resize, stays FP32. Q/DQ go with the layer that they feed: their scales and what DequantizeLinear gives are of its type,
so that nothing stands between DequantizeLinear and the layer.

Source: NVIDIA TensorRT documentation, "Strongly Typed Networks".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.spec import Array, ModelError
from engines.onnx_graph import (
    check,
    copy,
    drop_unused_initializers,
    first_line,
    fresh,
    infer_shapes,
    initializers,
    is_standard,
    is_weighted,
    node_inputs,
    set_nodes_,
    use_counts,
)
from engines.opset import at_opset, opset_of

FloatFormat = Literal["fp16", "bf16"]
_FLOAT = onnx.TensorProto.FLOAT
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
_RELATIVE_ERROR = 2.0**-8  # of a scale; half a step of the largest level


@dataclass(frozen=True)
class _Type:
    """A float format: what ONNX, NumPy, a schema and a tensor's name call it, the opset that Q/DQ and all need."""

    onnx: int
    numpy: type
    schema: str
    suffix: str
    qdq_opset: int
    opset: int


_TYPES: Mapping[FloatFormat, _Type] = {
    "fp16": _Type(onnx.TensorProto.FLOAT16, np.float16, "tensor(float16)", "fp16", 19, 13),
    # Convolutions and poolings take bfloat16 from opset 22 on.
    "bf16": _Type(onnx.TensorProto.BFLOAT16, ml_dtypes.bfloat16, "tensor(bfloat16)", "bf16", 22, 22),
}


def cast_network(
    model: onnx.ModelProto, kind: FloatFormat, keep: Mapping[str, str]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Compute in FP16 or BF16 what is float; the network's inputs and outputs stay FP32.

    FP32 stay, beside `keep`: what follows the last weighted layers, box decoding above all, whose coordinates need
    more digits; arithmetic on shapes; operators that ONNX has in FP32 only; nodes whose constants the format cannot
    hold; and layers that share a quantized tensor with such a node.

    Args:
        model: FP32 or with Q/DQ, with unique node names and static shapes.
        kind: the format.
        keep: nodes that stay FP32, and why.

    Returns: the network, and by node name why each node with float operands that is left FP32 is so.
    Raises ModelError when the opset cannot be raised to what the format needs.
    """
    target = _TYPES[kind]
    has_qdq = any(node.op_type in _QDQ for node in model.graph.node)
    model = infer_shapes(at_opset(model, target.qdq_opset if has_qdq else target.opset, kind))
    facts = _facts(model, target, opset_of(model))
    reasons = _reasons(model, facts, keep)
    new = _rewritten(model, facts, frozenset(reasons))
    return _typed(new), {name: reason for name, reason in reasons.items() if name in facts.operands}


def kept_fp32(model: onnx.ModelProto, kind: FloatFormat, keep: Mapping[str, str]) -> dict[str, str]:
    """The nodes with float operands that `cast_network` would leave FP32, by name, and why; nothing is changed.

    The model's opset may be older than what the format needs in a graph: a builder that chooses types needs no other.
    """
    target = _TYPES[kind]
    model = infer_shapes(model)
    facts = _facts(model, target, max(opset_of(model), target.qdq_opset))
    reasons = _reasons(model, facts, keep)
    return {name: reason for name, reason in reasons.items() if name in facts.operands}


# --- what is known of the graph


@dataclass(frozen=True)
class _Facts:
    """What the passes below ask.

    Attributes:
        target: the format.
        types: the element type of every tensor whose type is known.
        operands: by node name, for a node with FP32 operands, the inputs that the schema lets be of the format.
        results: by node name the indices of the outputs that then are of the format too.
        unsupported: nodes with FP32 operands or results that cannot change.
        constants: initializers.
    """

    target: _Type
    types: Mapping[str, int]
    operands: Mapping[str, tuple[int, ...]]
    results: Mapping[str, tuple[int, ...]]
    unsupported: frozenset[str]
    constants: Mapping[str, onnx.TensorProto]


def _facts(model: onnx.ModelProto, target: _Type, version: int) -> _Facts:
    """What is known, by the operators' schemas at an opset."""
    types = _types(model)
    operands: dict[str, tuple[int, ...]] = {}
    results: dict[str, tuple[int, ...]] = {}
    unsupported = set()
    for node in model.graph.node:
        names = [name for name in (*node.input, *node.output) if name]
        if not any(types.get(name) in {None, _FLOAT} for name in names):
            continue
        found = _changeable(node, types, version, target) if all(name in types for name in names) else None
        if found is None:
            unsupported.add(node.name)
            operands[node.name], results[node.name] = (), ()
        else:
            operands[node.name], results[node.name] = found
    return _Facts(target, types, operands, results, frozenset(unsupported), initializers(model))


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    found = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type"):
            found[value.name] = int(value.type.tensor_type.elem_type)
    return found


def _changeable(
    node: onnx.NodeProto, types: Mapping[str, int], version: int, target: _Type
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The FP32 inputs and outputs that may be of the format; None where the node must stay as it is."""
    if not is_standard(node) or node.op_type == "Cast" or len(node_inputs(node)) > len(node.input):
        return None
    schema = onnx.defs.get_schema(node.op_type, version)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    inputs = [_formal(schema.inputs, i) for i, name in enumerate(node.input)]
    floats = [i for i, name in enumerate(node.input) if name and types[name] == _FLOAT]
    # What a type variable or the schema itself holds back, as the scales and the region of a Resize, stays FP32.
    free = tuple(i for i in floats if target.schema in allowed.get(inputs[i], ()))
    if not free or free[0] != floats[0]:
        return None
    bound = {inputs[i] for i in free}
    outputs = [i for i, name in enumerate(node.output) if name and types[name] == _FLOAT]
    return free, tuple(i for i in outputs if _formal(schema.outputs, i) in bound)


def _formal(parameters: Iterable[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """The type of an operand in the schema; the last one may stand for any number."""
    known = list(parameters)
    return str(known[min(index, len(known) - 1)].type_str)


# --- what stays FP32


def _reasons(model: onnx.ModelProto, facts: _Facts, keep: Mapping[str, str]) -> dict[str, str]:
    """Why each node stays FP32, by name."""
    reasons = dict.fromkeys(facts.unsupported, "ONNX has the operator in FP32 only")
    reasons |= dict.fromkeys(_after_last_layers(model), "after the last weighted layers")
    reasons |= dict.fromkeys(_on_shapes(model), "arithmetic on shapes")
    for node in model.graph.node:
        problem = _constant_problem(node, facts)
        if problem:
            reasons[node.name] = problem
    reasons |= keep
    _share_(model, reasons)
    return reasons


def _after_last_layers(model: onnx.ModelProto) -> Iterator[str]:
    """The nodes whose results reach no weighted layer."""
    feeding: set[str] = set()
    for node in reversed(model.graph.node):
        if is_weighted(node) or feeding.intersection(node.output):
            feeding.update(node_inputs(node))
        else:
            yield node.name


def _on_shapes(model: onnx.ModelProto) -> Iterator[str]:
    """The nodes that compute with shapes and constants only."""
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if node.op_type in {"Shape", "Size"} or known.issuperset(node_inputs(node)):
            known.update(node.output)
            if node.op_type != "DequantizeLinear":
                yield node.name


def _constant_problem(node: onnx.NodeProto, facts: _Facts) -> str:
    """Why a node's constants do not go into the format; "" if they do."""
    for index in facts.operands.get(node.name, ()):
        tensor = facts.constants.get(node.input[index])
        if tensor is None:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore", under="ignore"):
            rounded = values.astype(facts.target.numpy).astype(np.float32)
        if not np.isfinite(rounded[np.isfinite(values)]).all():
            return f"constant {tensor.name!r} reaches {np.abs(values).max():.3g}, beyond the format"
        if values.size == 1 and values.any() and not rounded.any():
            return f"constant {tensor.name!r} of {values.item():.3g} would become zero"
        if node.op_type in _QDQ and index == 1 and (np.abs(rounded - values) > _RELATIVE_ERROR * values).any():
            return f"scale {tensor.name!r} goes down to {values.min():.3g}, too fine for the format"
    return ""


def _share_(model: onnx.ModelProto, reasons: dict[str, str]) -> None:
    """Give Q/DQ and all that read them one precision: FP32 as soon as one of them has it."""
    groups = _groups(model)
    changed = True
    while changed:
        changed = False
        for members in groups:
            kept = [name for name in members if name in reasons]
            if kept and len(kept) < len(members):
                why = f"shares a quantized tensor with {kept[0]!r}: {reasons[kept[0]]}"
                reasons.update((name, why) for name in members if name not in reasons)
                changed = True


def _groups(model: onnx.ModelProto) -> list[list[str]]:
    """The nodes around each quantized tensor, QuantizeLinear, DequantizeLinear and their readers, in graph order."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    quantizers = {n.output[0]: n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    groups: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            pair = quantizers.get(node.input[0])
            group = groups.setdefault(node.input[0], [pair.name] if pair is not None else [])
            group += [node.name, *(reader.name for reader in readers.get(node.output[0], ()))]
    return list(groups.values())


# --- the new graph

_Names = Mapping[tuple[str, bool], str]
"""What a tensor is called in FP32 (False) and in the format (True)."""


def _rewritten(model: onnx.ModelProto, facts: _Facts, kept: frozenset[str]) -> onnx.ModelProto:
    new = copy(model)
    cast = {name: frozenset(indices) for name, indices in facts.operands.items() if name not in kept}
    low = {n.output[i] for n in new.graph.node if n.name in cast for i in facts.results[n.name]}
    reads = _reads(new, facts, cast)
    names = _named(new, reads, low, facts.target.suffix)
    for node in new.graph.node:
        for index, tensor in enumerate(node.input):
            node.input[index] = names.get((tensor, index in cast.get(node.name, ())), tensor)
    set_nodes_(new, _with_casts(new, facts, names, low))
    _store_constants_(new, facts, reads, names)
    del new.graph.value_info[:]
    return drop_unused_initializers(new)


def _reads(model: onnx.ModelProto, facts: _Facts, cast: Mapping[str, frozenset[int]]) -> dict[str, set[bool]]:
    """The types that each FP32 tensor is asked for in."""
    reads: dict[str, set[bool]] = {output.name: {False} for output in model.graph.output}
    for node in model.graph.node:
        for index, tensor in enumerate(node_inputs(node)):  # subgraphs read FP32
            reads.setdefault(tensor, set()).add(index in cast.get(node.name, ()))
    return {tensor: types for tensor, types in reads.items() if facts.types.get(tensor) == _FLOAT}


def _named(
    model: onnx.ModelProto, reads: Mapping[str, set[bool]], low: set[str], suffix: str
) -> dict[tuple[str, bool], str]:
    """Each tensor's names: its own for the type it is made in, or for FP32 where outputs or subgraphs ask by it."""
    taken = (
        {n.name for n in model.graph.node} | set(use_counts(model)) | {o for n in model.graph.node for o in n.output}
    )
    fixed = {output.name for output in model.graph.output}
    for node in model.graph.node:
        fixed.update(node_inputs(node)[len(node.input) :])
    constants = initializers(model)
    names: dict[tuple[str, bool], str] = {}
    for tensor, types in reads.items():
        own = types == {True} if tensor in constants else tensor in low and tensor not in fixed
        for kind in {*types, own, tensor in low}:
            names[tensor, kind] = tensor if kind == own else fresh(f"{tensor}_{suffix if kind else 'fp32'}", taken)
    return names


def _with_casts(model: onnx.ModelProto, facts: _Facts, names: _Names, low: set[str]) -> Iterator[onnx.NodeProto]:
    """The graph's nodes, with a Cast behind whoever makes a tensor that is read in the other type too."""
    taken = {node.name for node in model.graph.node}

    def casts(tensor: str) -> Iterator[onnx.NodeProto]:
        made = tensor in low
        if (tensor, made) in names and (tensor, not made) in names:
            kind = _FLOAT if made else facts.target.onnx
            name = fresh(f"{names[tensor, not made]}_Cast", taken)
            yield helper.make_node("Cast", [names[tensor, made]], [names[tensor, not made]], name, to=kind)

    for value in model.graph.input:
        yield from casts(value.name)
    for node in model.graph.node:
        outputs = list(node.output)
        node.output[:] = [names.get((tensor, tensor in low), tensor) for tensor in outputs]
        yield node
        for tensor in outputs:
            yield from casts(tensor)


def _store_constants_(model: onnx.ModelProto, facts: _Facts, reads: Mapping[str, set[bool]], names: _Names) -> None:
    """Put constants that are read in the format into it; FP32 ones stay beside them where they are read too."""
    for tensor in list(model.graph.initializer):
        if True in reads.get(tensor.name, ()):
            with np.errstate(under="ignore"):
                values: Array = numpy_helper.to_array(tensor).astype(facts.target.numpy)
            stored = numpy_helper.from_array(values, names[tensor.name, True])
            if stored.name == tensor.name:
                model.graph.initializer.remove(tensor)
            model.graph.initializer.append(stored)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the type of every tensor stated, held against ONNX's own rules."""
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelError(
            f"ONNX graph: expected operands of one type at every node, got: {first_line(error)}; name that node in "
            "keep_float"
        ) from error
    return check(infer_shapes(model))
