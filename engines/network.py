"""What the backends ask of an ONNX file before they build it: cheap checks, each an error in one line.

The network is a finished one, quantized or not; `onnx_load` is for what users bring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from avcompress.spec import EngineBuildError, ModelError
from engines.onnx_graph import copy, is_weighted
from engines.onnx_weights import load_weights_, stored_tensors


def read_network(path: Path, dynamic: bool = False) -> onnx.ModelProto:
    """Parse an ONNX file, without weights that are stored beside it.

    Args:
        path: an .onnx file.
        dynamic: whether inputs may have dimensions that vary.

    Raises EngineBuildError for what is no ONNX file, has no nodes or outputs, or has inputs of unknown shape.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "something else or a truncated one"
        raise EngineBuildError("parse", f"{path.name}: expected an ONNX file, got {reason}; export it again") from error
    graph = model.graph
    if not graph.node or not graph.output:
        raise EngineBuildError(
            "parse",
            f"{path.name}: expected a graph with nodes and outputs, got {len(graph.node)} nodes and "
            f"{len(graph.output)} outputs; export it again",
        )
    for name, shape in network_inputs(model).items():
        if not dynamic and (not shape or min(shape) < 1):
            raise EngineBuildError(
                "parse", f"{path.name}, input {name!r}: expected a static shape, got {shape}; fix its dimensions"
            )
    return model


def with_weights(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The network that was parsed from `path`: itself, or a copy with the weights that lie beside the file.

    Raises EngineBuildError where these are missing, truncated or too many.
    """
    if not stored_tensors(model):
        return model
    whole = copy(model)
    try:
        load_weights_(whole, path.parent)
    except ModelError as error:
        raise EngineBuildError("parse", f"{path.name}: {error}") from error
    return whole


def network_inputs(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs by name, initializers left out; -1 for a dimension that is not static."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {value.name: _shape(value) for value in model.graph.input if value.name not in constants}


def network_outputs(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes of the outputs by name; -1 for a dimension that is not static."""
    return {value.name: _shape(value) for value in model.graph.output}


def weighted_nodes(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the convolutions and matrix products, in graph order; those of two activations too, as in attention.

    Raises EngineBuildError when such a node has no name, or shares it: no layer map could be read then.
    """
    nodes = list(_weighted(model))
    taken = Counter(node.name for node in model.graph.node)
    for node in nodes:
        if not node.name or taken[node.name] > 1:
            got = f"{node.name!r} {taken[node.name]} times" if node.name else f"none for the {node.op_type}"
            raise EngineBuildError(
                "parse", f"graph: expected a unique name for every weighted node, got {got}; name the nodes"
            )
    return tuple(node.name for node in nodes)


def _weighted(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    constant = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        # Constant nodes have no inputs; what is computed from constants alone is constant: Q/DQ of a weight.
        if constant.issuperset(name for name in node.input if name):
            constant.update(node.output)
        elif is_weighted(node):
            yield node


def float_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """The weighted nodes that no engine can compute in integers, and their type: an operand of theirs is float.

    What reaches an operand from a DequantizeLinear without another product between may be integers.
    """
    weighted = list(_weighted(model))
    products = {id(node) for node in weighted}
    quantized: set[str] = set()
    for node in model.graph.node:
        passes = id(node) not in products and quantized.intersection(node.input)
        if node.op_type in {"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"} or passes:
            quantized.update(node.output)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    plain = [node for node in weighted if not quantized.issuperset(node.input[:2])]
    return {node.name: name for node in plain if (name := _FLOATS.get(types.get(node.output[0], 0))) is not None}


_FLOATS = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value if dim.dim_value > 0 else -1 for dim in value.type.tensor_type.shape.dim)
