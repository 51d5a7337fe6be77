"""Passes over an ONNX graph: constants, names, batch-norm folding, extra outputs, multiply-accumulates.

A pass takes a model and returns a new one; `check` holds the result against the ONNX specification. Equal inputs give
equal bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from avcompress.spec import WEIGHTED, Array, ModelError
from engines.norm_statistics import write_statistics_

Edge = tuple[str, int]
"""One use of a tensor: a node's name and the index of its input."""

_FOLDED = frozenset({"Cast", "Constant", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


# --- reading a graph


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether the operator is one of ONNX itself."""
    return node.domain in {"", "ai.onnx"}


def is_weighted(node: onnx.NodeProto) -> bool:
    """Whether the operator multiplies and accumulates."""
    return is_standard(node) and node.op_type in WEIGHTED


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """The value of an attribute, or what ONNX says it is when it is left out."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The constants of the graph by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def node_inputs(node: onnx.NodeProto) -> tuple[str, ...]:
    """The inputs of a node in order, then what its subgraphs may capture."""
    captured = [name for graph in subgraphs(node) for name in _mentioned(graph)]
    return (*node.input, *captured)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches and bodies of a node, as attributes hold them."""
    for attr in node.attribute:
        if attr.type == onnx.AttributeProto.GRAPH:
            yield attr.g
        yield from attr.graphs


def _mentioned(graph: onnx.GraphProto) -> Iterator[str]:
    """Names used in a subgraph; names are unique in a model, so those of its own do not hurt."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node_inputs(node)


def use_counts(model: onnx.ModelProto) -> Counter[str]:
    """How often each tensor is used, by nodes and as a graph output."""
    counts = Counter(name for node in model.graph.node for name in node_inputs(node))
    counts.update(output.name for output in model.graph.output)
    return counts


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The static shapes that the model states: inputs, outputs, inferred values and initializers."""
    graph = model.graph
    known = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            known[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return known


def macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of every Conv, ConvTranspose, Gemm and MatMul, by node name; 0 where a shape is unknown."""
    known = shapes(model)
    return {node.name: _node_macs(node, known) for node in model.graph.node if is_weighted(node)}


def total_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of one inference, as far as shapes are known."""
    return sum(macs(model).values())


def parameters(model: onnx.ModelProto) -> int:
    """How many numbers the graph's floating-point constants hold."""
    kinds = onnx.TensorProto
    floats = {kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16}
    return sum(int(np.prod(t.dims, dtype=np.int64)) for t in model.graph.initializer if t.data_type in floats)


def _node_macs(node: onnx.NodeProto, known: Mapping[str, tuple[int, ...]]) -> int:
    data, weight, output = (known.get(name) for name in (*node.input[:2], node.output[0]))
    if data is None or weight is None or output is None:
        return 0
    match node.op_type:
        case "Conv":  # every output value sums over the input channels of its group and the kernel
            return int(np.prod(output) * np.prod(weight[1:]))
        case "ConvTranspose":  # every input value is spread over the output channels of its group and the kernel
            return int(np.prod(data) * np.prod(weight[1:]))
        case "Gemm":
            return int(np.prod(output)) * data[0 if attribute(node, "transA", 0) else 1]
        case _:
            return int(np.prod(output)) * data[-1]


# --- passes


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that can be changed without changing this one."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    return new


def check(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model; raises ModelError where it breaks the ONNX specification, as by a value that nothing computes."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(
            f"ONNX graph: expected a valid model, got: {first_line(error)}; export it again, or run onnx.checker on it"
        ) from error
    names = Counter(node.name for node in model.graph.node)
    bad = next((name for name, count in names.items() if not name or count > 1), None)
    if bad is not None:
        raise ModelError(
            f"ONNX graph: expected unique node names, got {bad!r} {names[bad]} times; run name_nodes first"
        )
    return model


def first_line(error: Exception) -> str:
    """What an error says before its context and stack; the kind of error where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =>\t")]
    return lines[0].rstrip(".;: ") if lines else type(error).__name__


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """State the shape of every value that ONNX can infer, beside those stated already."""
    new = copy(model)
    produced = {output for node in new.graph.node for output in node.output}
    stated = [value for value in model.graph.value_info if value.name in produced]
    del new.graph.value_info[:]
    new.graph.value_info.extend(stated)
    try:
        return onnx.shape_inference.infer_shapes(new, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelError(
            f"ONNX graph: expected shapes that fit together, got: {first_line(error)}; export the model again"
        ) from error


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every node a unique name; those that have one keep it, the first of several equal ones too."""
    new = copy(model)
    taken = {node.name for node in new.graph.node} - {""}
    seen: set[str] = set()
    for index, node in enumerate(new.graph.node):
        if not node.name or node.name in seen:
            node.name = fresh(node.name or f"{node.op_type}_{index}", taken)
        seen.add(node.name)
    return new


def fresh(name: str, taken: set[str]) -> str:
    """The name, or the first of name_1, name_2 ... that is free; it is taken from now on."""
    free, number = name, 0
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn Constant nodes, and copies, casts and reshapes of constants, into initializers: weights hide behind them."""
    new = copy(model)
    known = initializers(new)
    kept_names = {output.name for output in new.graph.output}
    opsets = list(new.opset_import)
    kept: list[onnx.NodeProto] = []
    for node in new.graph.node:
        foldable = is_standard(node) and node.op_type in _FOLDED and node.output[0] not in kept_names
        value = _evaluated(node, known, opsets) if foldable else None
        if value is None:
            kept.append(node)
        else:
            known[node.output[0]] = numpy_helper.from_array(value, node.output[0])
            new.graph.initializer.append(known[node.output[0]])
    set_nodes_(new, kept)
    return drop_unused_initializers(new)


def _evaluated(
    node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], opsets: Sequence[onnx.OperatorSetIdProto]
) -> Array | None:
    """The value of a node with constant inputs; None if it has others, or is not a dense tensor."""
    dense = node.op_type != "Constant" or node.attribute[0].name in {
        *("value", "value_float", "value_floats", "value_int", "value_ints")
    }
    if not dense or any(name and name not in known for name in node.input):
        return None
    feeds = {name: numpy_helper.to_array(known[name]) for name in node.input if name}
    (value,) = ReferenceEvaluator(node, opsets={o.domain: o.version for o in opsets}).run(None, feeds)
    return np.asarray(value)


def set_nodes_(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put these nodes in the place of the graph's own."""
    kept = [_copy_node(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _copy_node(node: onnx.NodeProto) -> onnx.NodeProto:
    new = onnx.NodeProto()
    new.CopyFrom(node)
    return new


def drop_unused_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the constants that nothing uses."""
    new = copy(model)
    used = use_counts(new)
    kept = [tensor for tensor in model.graph.initializer if used[tensor.name]]
    del new.graph.initializer[:]
    new.graph.initializer.extend(kept)
    return new


def keep_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Keep one of the graph's outputs, and of the nodes and constants only what it is computed from."""
    new = copy(model)
    output = next(_copy_value(value) for value in new.graph.output if value.name == name)
    del new.graph.output[:]
    new.graph.output.append(output)
    return drop_unused(new)


def drop_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the nodes and constants that no output is computed from."""
    new = copy(model)
    needed = {value.name for value in new.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(new.graph.node):  # in topological order, as ONNX demands
        if needed.intersection(node.output):
            needed.update(node_inputs(node))
            kept.append(node)
    set_nodes_(new, reversed(kept))
    return drop_unused_initializers(new)


def _copy_value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    new = onnx.ValueInfoProto()
    new.CopyFrom(value)
    return new


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Add float32 tensors to the graph's outputs; those that are there stay where they are."""
    new = copy(model)
    known = shapes(new)
    there = {output.name for output in new.graph.output}
    for tensor in dict.fromkeys(tensors):
        if tensor not in there:
            value = helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, known.get(tensor))
            new.graph.output.append(value)
    return new


# --- batch normalization


def fold_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold a BatchNormalization into the Conv or ConvTranspose before it where nothing else reads the convolution.

    The mean and the deviation that it gave every channel stay at the convolution, as norm_statistics reads them.
    """
    new = copy(model)
    constants, uses = initializers(new), use_counts(new)
    taken = set(uses) | constants.keys()
    producer = {output: node for node in new.graph.node for output in node.output}
    folded: set[str] = set()
    for norm in new.graph.node:
        conv = producer.get(norm.input[0]) if norm.op_type == "BatchNormalization" and is_standard(norm) else None
        if conv is not None and _foldable(conv, norm, constants, uses):
            weight, bias = _folded_weights(conv, norm, constants)
            names = [fresh(f"{conv.input[1]}.folded", taken), fresh(f"{conv.input[1]}.folded_bias", taken)]
            if uses[conv.input[1]] == 1:
                names[0] = conv.input[1]  # patterns in recipes name weights: keep the name where nobody shares it
                new.graph.initializer.remove(constants[names[0]])
            new.graph.initializer.extend(
                numpy_helper.from_array(v, n) for v, n in zip((weight, bias), names, strict=True)
            )
            conv.input[1:] = names
            conv.output[0] = norm.output[0]
            gamma, beta = (numpy_helper.to_array(constants[name]) for name in norm.input[1:3])
            write_statistics_(conv, beta, np.abs(gamma))
            folded.add(norm.output[0])
    set_nodes_(new, [n for n in new.graph.node if n.op_type != "BatchNormalization" or n.output[0] not in folded])
    return drop_unused_initializers(new)


def folded_names(weight: str, names: Iterable[str]) -> list[str]:
    """Those names under which fold_batch_norms leaves a weight: its own, or new ones where several layers shared it."""
    pattern = re.compile(rf"{re.escape(weight)}(\.folded(_\d+)?)?")
    return [name for name in names if pattern.fullmatch(name)]


def _foldable(
    conv: onnx.NodeProto, norm: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], uses: Mapping[str, int]
) -> bool:
    """Whether only this normalization, with fixed statistics, reads this convolution, with fixed float32 weights."""
    operands = [*conv.input[1:], *norm.input[1:]]
    return (
        conv.op_type in {"Conv", "ConvTranspose"}
        and is_standard(conv)
        and uses[conv.output[0]] == 1
        and len([name for name in norm.output if name]) == 1
        and not attribute(norm, "training_mode", 0)
        and all(not name or name in constants for name in operands)
        and constants[conv.input[1]].data_type == onnx.TensorProto.FLOAT
    )


def _folded_weights(
    conv: onnx.NodeProto, norm: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias such that conv(x) equals norm(conv(x)), computed in float64.

    Source: gamma * (w x + b - mean) / sqrt(var + epsilon) + beta, ONNX BatchNormalization.
    """
    weight = numpy_helper.to_array(constants[conv.input[1]]).astype(np.float64)
    gamma, beta, mean, var = (numpy_helper.to_array(constants[n]).astype(np.float64) for n in norm.input[1:5])
    has_bias = len(conv.input) > 2 and conv.input[2]
    bias = numpy_helper.to_array(constants[conv.input[2]]).astype(np.float64) if has_bias else np.zeros_like(mean)
    factor = gamma / np.sqrt(var + float(str(attribute(norm, "epsilon", 1e-5))))
    if conv.op_type == "Conv":  # (M, C/group, kernel)
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # (C, M/group, kernel): the group of an input channel decides which outputs it feeds
        by_group = weight.reshape(int(str(attribute(conv, "group", 1))), -1, *weight.shape[1:])
        per_group = factor.reshape(len(by_group), 1, weight.shape[1], *[1] * (weight.ndim - 2))
        scaled = (by_group * per_group).reshape(weight.shape)
    return scaled.astype(np.float32), ((bias - mean) * factor + beta).astype(np.float32)
