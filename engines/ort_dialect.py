"""The network as ONNX Runtime's CPU kernels can compute it: FP16 and BF16 values, FP32 arithmetic.

There is no kernel for most operators in these types on a CPU. Each one is computed in FP32, on operands that are
exactly the FP16 or BF16 ones, and its result is rounded to the type: what a GPU does that accumulates in FP32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engines.onnx_graph import copy, fresh, infer_shapes, name_nodes, set_nodes_, use_counts

_LOW = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


def with_float_kernels(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which only Cast has FP16 or BF16 operands; the same model where nothing is of these types.

    Constants are stored in FP32, with the values that they have.
    """
    types = _low_types(infer_shapes(model))
    if not types:
        return model
    new = copy(model)
    taken = {n.name for n in new.graph.node} | set(use_counts(new)) | {o for n in new.graph.node for o in n.output}
    wide = {name: fresh(f"{name}_wide", taken) for name in types}
    read = {name for node in new.graph.node if node.op_type != "Cast" for name in node.input}
    constants = {tensor.name for tensor in new.graph.initializer}
    nodes = [_cast(v.name, wide[v.name], onnx.TensorProto.FLOAT) for v in new.graph.input if v.name in types]
    for node in new.graph.node:
        made = [name for name in node.output if name in types]
        # What has no such operands, as Cast and Constant, makes the type itself.
        casts = node.op_type != "Cast" and not types.keys().isdisjoint(node.input)
        exact = {name: fresh(f"{name}_exact", taken) for name in made} if casts else {}
        node.input[:] = [wide[n] if n in types and (casts or n in constants) else n for n in node.input]
        node.output[:] = [exact.get(name, name) for name in node.output]
        nodes.append(node)
        nodes += [_cast(exact[name], name, types[name]) for name in exact]
        nodes += [_cast(name, wide[name], onnx.TensorProto.FLOAT) for name in made if name in read]
    for tensor in new.graph.initializer:
        if tensor.name in types:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, wide[tensor.name]))
    set_nodes_(new, nodes)
    del new.graph.value_info[:]
    return infer_shapes(name_nodes(new))


def _low_types(model: onnx.ModelProto) -> dict[str, int]:
    """The tensors in FP16 and BF16."""
    graph = model.graph
    found = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        found[value.name] = int(value.type.tensor_type.elem_type)
    return {name: kind for name, kind in found.items() if kind in _LOW}


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_Cast", to=kind)
