"""What implicit quantization computes, as a network with Q/DQ: its numbers can be had without a device.

Every tensor that an INT8 layer writes or reads is rounded to its scale in the cache, for all that read it; weights are
rounded as TensorRT finds their scales. FP16 layers stay FP32 here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import helper, numpy_helper

from avcompress.spec import QuantParams
from engines.dialects.implicit_weights import implicit_params, output_axis
from engines.onnx_graph import Edge, copy, fresh, infer_shapes, initializers, is_weighted, set_nodes_, use_counts
from engines.qdq import insert_qdq


def as_explicit(model: onnx.ModelProto, scales: Mapping[str, float], precisions: Mapping[str, str]) -> onnx.ModelProto:
    """The float network with Q/DQ where implicit quantization rounds.

    Args:
        model: float, as the dla-implicit dialect hands it over.
        scales: of the calibration cache, by tensor.
        precisions: by node name; "int8" or another one.
    """
    names = {node.name for node in model.graph.node if precisions.get(node.name) == "int8"}
    model, renamed = _with_readers_of_outputs(model, names)
    scales = {renamed.get(name, name): scale for name, scale in scales.items()}
    integer = [node for node in model.graph.node if node.name in names]
    rounded = {name for node in integer for name in (*node.input, *node.output) if name in scales}
    qparams = {name: QuantParams((scales[name],), (0,)) for name in rounded}
    constants = initializers(model)
    edges: list[Edge] = [*_edges(model, rounded - constants.keys())]
    for node in integer:
        if is_weighted(node) and node.input[1] in constants:
            weight = numpy_helper.to_array(constants[node.input[1]])
            qparams[node.input[1]] = implicit_params(weight, output_axis(node, weight.ndim))
            edges.append((node.name, 1))
        edges += [(node.name, i) for i, name in enumerate(node.input) if name in rounded & constants.keys()]
    return insert_qdq(model, edges, qparams)


def _with_readers_of_outputs(model: onnx.ModelProto, integer: set[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The network with a node between an INT8 layer and the network's output, where rounding finds room.

    Returns: the network, and by the output's name what the layer's own result is called now.
    """
    new = copy(model)
    outputs = {value.name for value in new.graph.output}
    taken = {*use_counts(new), *(o for n in new.graph.node for o in n.output), *(n.name for n in new.graph.node)}
    made = [o for n in new.graph.node if n.name in integer for o in n.output if o in outputs]
    renamed = {name: fresh(f"{name}_unrounded", taken) for name in made}
    for node in new.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    identities = [
        helper.make_node("Identity", [inner], [name], fresh(f"{name}_Identity", taken))
        for name, inner in renamed.items()
    ]
    set_nodes_(new, [*new.graph.node, *identities])
    return infer_shapes(new), renamed


def _edges(model: onnx.ModelProto, tensors: set[str]) -> Iterator[Edge]:
    for node in model.graph.node:
        yield from ((node.name, index) for index, name in enumerate(node.input) if name in tensors)
