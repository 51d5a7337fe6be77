"""A network as a plain checkpoint: its structure as JSON, its weights as safetensors; no pickle, no Python class.

structure.json names inputs, outputs and nodes with their attributes, and holds the sizes that nodes read; of the
weights it has names, types and shapes, which those in weights.safetensors have to agree with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors
import safetensors.numpy
from onnx import helper, numpy_helper

from avcompress.files import write_atomically
from avcompress.spec import Array, ModelError
from engines.onnx_graph import check, first_line, infer_shapes, name_nodes

STRUCTURE = "structure.json"
WEIGHTS = "weights.safetensors"
FORMAT = "avcompress structure 1"
_SAFE = frozenset({"float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"})

Json = dict[str, Any]


def save_structure(network: onnx.ModelProto, folder: Path) -> None:
    """Write structure.json, the graph without its weights, and weights.safetensors.

    Whole numbers, as the sizes of a reshape, are part of the structure; everything else is a weight.
    Raises ModelError for what JSON and safetensors cannot hold, OutputError when the folder cannot be written.
    """
    values = {item.name: numpy_helper.to_array(item) for item in network.graph.initializer}
    weights = {name: value for name, value in values.items() if not _is_size(value)}
    bad = next((name for name, value in weights.items() if value.dtype.name not in _SAFE), None)
    if bad is not None:
        raise ModelError(f"weight {bad!r}: expected a type that safetensors holds, got {weights[bad].dtype}; cast it")
    described = _described(network, values, weights)
    # The weights first: a structure beside the weights of another one is noticed when it is read.
    contiguous = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in weights.items()}
    write_atomically(folder / WEIGHTS, safetensors.numpy.save(contiguous))
    write_atomically(folder / STRUCTURE, _lines(described))


def load_structure(folder: Path) -> onnx.ModelProto:
    """Read what save_structure wrote; import_onnx makes a network of it that can be trained.

    Raises ModelError for files that are not those of save_structure, or weights of another structure.
    """
    described = _read_structure(folder / STRUCTURE)
    weights = _read_weights(folder / WEIGHTS)
    try:
        _refuse_other(described["weights"], weights)
        return infer_shapes(check(name_nodes(_network(described, weights))))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{folder / STRUCTURE}: expected a structure as save_structure writes it, got one with "
            f"{type(error).__name__}: {first_line(error)}; save it again"
        ) from error


def _is_size(value: Array) -> bool:
    return value.dtype.name in {"int64", "int32"} and value.ndim <= 1


# --- writing


def _lines(described: Json) -> str:
    """JSON with a line for each node, weight and size: for eyes, and for diff."""
    parts = []
    for key, value in described.items():
        opening, closing = ("[", "]") if isinstance(value, list) else ("{", "}")
        if isinstance(value, list):
            items = [json.dumps(item) for item in value]
        elif isinstance(value, dict):
            items = [f"{json.dumps(name)}: {json.dumps(item)}" for name, item in value.items()]
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
            continue
        body = ",\n  ".join(items)
        parts.append(
            f" {json.dumps(key)}: {opening}\n  {body}\n {closing}"
            if items
            else f" {json.dumps(key)}: {opening}{closing}"
        )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _described(network: onnx.ModelProto, values: Mapping[str, Array], weights: Mapping[str, Array]) -> Json:
    graph = network.graph
    return {
        "format": FORMAT,
        "name": graph.name,
        "ir_version": network.ir_version,
        "opsets": {item.domain: item.version for item in network.opset_import},
        "inputs": [_tensor(value) for value in graph.input if value.name not in values],
        "outputs": [_tensor(value) for value in graph.output],
        "nodes": [_node(node) for node in graph.node],
        "sizes": {n: {"dtype": v.dtype.name, "values": v.tolist()} for n, v in values.items() if n not in weights},
        "weights": {name: _kind(value) for name, value in weights.items()},
    }


def _tensor(value: onnx.ValueInfoProto) -> Json:
    kind = value.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]
    return {"name": value.name, "dtype": helper.tensor_dtype_to_np_dtype(kind.elem_type).name, "shape": shape}


def _kind(value: Array) -> Json:
    return {"dtype": value.dtype.name, "shape": list(value.shape)}


def _node(node: onnx.NodeProto) -> Json:
    described: Json = {"name": node.name, "op": node.op_type, "inputs": list(node.input), "outputs": list(node.output)}
    if node.domain:
        described["domain"] = node.domain
    if node.attribute:
        described["attributes"] = {item.name: _attribute(node, item) for item in node.attribute}
    if node.metadata_props:
        described["metadata"] = {item.key: item.value for item in node.metadata_props}
    return described


def _attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Any:
    """A number, text or a list of them; JSON tells 1 from 1.0, as ONNX does."""
    value: Any = helper.get_attribute_value(attribute)
    match attribute.type:
        case onnx.AttributeProto.INT | onnx.AttributeProto.FLOAT:
            return value
        case onnx.AttributeProto.INTS | onnx.AttributeProto.FLOATS:
            return list(value)
        case onnx.AttributeProto.STRING:
            return value.decode()
        case onnx.AttributeProto.STRINGS:
            return [item.decode() for item in value]
        case onnx.AttributeProto.TENSOR:
            array = numpy_helper.to_array(value)
            return {**_kind(array), "values": array.reshape(-1).tolist()}
    kind = onnx.AttributeProto.AttributeType.Name(attribute.type).lower()
    raise ModelError(
        f"node {node.name!r} ({node.op_type}): expected numbers, text or a tensor in {attribute.name!r}, got a "
        f"{kind}; export the network without it"
    )


# --- reading


def _read_structure(path: Path) -> Json:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: expected a readable file, got {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:  # of the encoding, too
        raise ModelError(f"{path}: expected JSON, got: {first_line(error)}; save the structure again") from error
    found = described.get("format") if isinstance(described, dict) else None
    if found != FORMAT:
        got = f"{found!r}" if found else "another file"
        raise ModelError(f"{path}: expected {FORMAT!r}, got {got}; give a folder that save_structure wrote")
    return dict(described)


def _read_weights(path: Path) -> dict[str, Array]:
    try:
        return dict(safetensors.numpy.load(path.read_bytes()))
    except OSError as error:
        raise ModelError(f"{path}: expected a readable file, got {error.strerror}; check the path") from error
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: expected safetensors, got: {first_line(error)}; save the weights again") from error


def _refuse_other(described: Mapping[str, Json], weights: Mapping[str, Array]) -> None:
    """Raise ModelError for weights of another structure: the first that is missing, left over, or of another shape."""
    for name in dict.fromkeys((*described, *weights)):
        if name not in weights:
            raise ModelError(f"{WEIGHTS}: expected weights of this structure, got none named {name!r}; {_REMEDY}")
        if name not in described:
            raise ModelError(f"{WEIGHTS}: expected weights of this structure, got {name!r} besides; {_REMEDY}")
    for name, wanted in described.items():
        found = _kind(weights[name])
        if wanted != found:
            raise ModelError(f"{WEIGHTS}: expected {name!r} as {_said(wanted)}, got {_said(found)}; {_REMEDY}")


_REMEDY = "give the two files of one save_structure"


def _said(kind: Json) -> str:
    return f"{kind['dtype']} {'x'.join(map(str, kind['shape'])) or 'scalar'}"


def _network(described: Json, weights: Mapping[str, Array]) -> onnx.ModelProto:
    sizes = {n: np.array(item["values"], np.dtype(item["dtype"])) for n, item in described["sizes"].items()}
    ordered = {name: weights[name] for name in described["weights"]}  # safetensors gives them in any order
    graph = helper.make_graph(
        [_made(item) for item in described["nodes"]],
        described["name"],
        [_value(item) for item in described["inputs"]],
        [_value(item) for item in described["outputs"]],
        [numpy_helper.from_array(value, name) for name, value in {**ordered, **sizes}.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in described["opsets"].items()]
    return helper.make_model(graph, ir_version=described["ir_version"], opset_imports=opsets)


def _array(described: Json) -> Array:
    values: Array = np.array(described["values"], np.dtype(described["dtype"])).reshape(described["shape"])
    return values


def _value(described: Json) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(described["dtype"]))
    return helper.make_tensor_value_info(described["name"], kind, described["shape"])


def _made(described: Json) -> onnx.NodeProto:
    node = helper.make_node(
        described["op"], described["inputs"], described["outputs"], described["name"], domain=described.get("domain")
    )
    for name, given in described.get("attributes", {}).items():
        value = numpy_helper.from_array(_array(given)) if isinstance(given, dict) else given
        empty = onnx.AttributeProto.INTS if value == [] else None
        node.attribute.append(helper.make_attribute(name, value, attr_type=empty))
    for key, text in described.get("metadata", {}).items():
        node.metadata_props.add(key=key, value=text)
    return node
