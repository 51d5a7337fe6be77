"""Weights in the form that each dialect has them in: stored integers, float numbers with Q and DQ, or float numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.spec import ModelError
from engines.dialects.planned import sites_by_edge
from engines.onnx_graph import (
    check,
    copy,
    drop_unused_initializers,
    fresh,
    infer_shapes,
    initializers,
    is_standard,
    set_nodes_,
    use_counts,
)
from engines.qdq import QdqSite, constant_values, dequantize_array, qdq_sites, quantize_array


def with_stored_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights that are quantized in the graph, as the integers that this gives."""
    sites = {s.dequantize: s for s in qdq_sites(model) if s.constant and s.quantize and s.params is not None}
    if not sites:
        return model
    new, constants = copy(model), constant_values(model)
    for node in new.graph.node:
        site = sites.get(node.name)
        if site is not None and site.params is not None:
            stored = quantize_array(constants[site.tensor], site.params)
            # The QuantizeLinear's own output: it keeps its name, and every reader.
            if node.input[0] not in initializers(new):
                new.graph.initializer.append(numpy_helper.from_array(stored, node.input[0]))
    spent = {site.quantize for site in sites.values()}
    set_nodes_(new, [node for node in new.graph.node if node.name not in spent])
    return check(infer_shapes(drop_unused_initializers(new)))


def without_lone_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Weights whose layer's input is float, as float numbers: TensorRT 8 does not fuse a DequantizeLinear there."""
    by_edge = sites_by_edge(model)
    alone = [site for site in qdq_sites(model) if site.constant and site.edges and not _is_paired(site, by_edge)]
    if not alone:
        return model, ()
    outputs = {site.output for site in alone}
    new, constants = copy(model), constant_values(model)
    makers = {node.output[0]: node for node in model.graph.node if node.output}
    for site in alone:
        if site.params is None:
            raise ModelError(
                f"node {site.dequantize!r} (DequantizeLinear): expected weights in int8, uint8, int4 or fp8, got "
                "another type; store them in float"
            )
        node = makers[site.output]
        stored = constants[node.input[0]] if not site.quantize else None
        if stored is None:  # quantized in the graph: that rounding is the network's own
            continue
        values = dequantize_array(stored, site.params).astype(constants[node.input[1]].dtype)
        new.graph.initializer.append(numpy_helper.from_array(values, site.output))
    made = {tensor.name for tensor in new.graph.initializer} & outputs
    set_nodes_(new, [n for n in new.graph.node if not n.output or n.output[0] not in made])
    notes = (f"the weights of {len(made)} float layers are stored in float",) if made else ()
    return check(infer_shapes(drop_unused_initializers(new))), notes


def _is_paired(site: QdqSite, by_edge: Mapping[tuple[str, int], QdqSite]) -> bool:
    """Whether a layer that reads a quantized weight reads a quantized input too."""
    return any((name, 1 - index) in by_edge for name, index in site.edges if index in {0, 1})


def with_float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights that are stored as integers, as FP32 with a QuantizeLinear that gives those integers back, exactly.

    (q * s) / s is q within a few units of float32's last place: rounding gives the integer.
    """
    new = copy(model)
    constants = initializers(new)
    sites = {site.dequantize: site for site in qdq_sites(new) if site.constant and not site.quantize}
    taken = {*use_counts(new), *(o for n in new.graph.node for o in n.output), *(n.name for n in new.graph.node)}
    taken |= constants.keys()
    set_nodes_(new, [each for node in new.graph.node for each in _with_quantize(new, node, sites, taken)])
    return check(infer_shapes(drop_unused_initializers(new)))


def _with_quantize(
    model: onnx.ModelProto, node: onnx.NodeProto, sites: Mapping[str, QdqSite], taken: set[str]
) -> Iterator[onnx.NodeProto]:
    site = sites.get(node.name)
    if site is not None and site.params is not None and site.params.dtype == "int8":
        stored = numpy_helper.to_array(initializers(model)[node.input[0]])
        name = fresh(site.tensor, taken)
        values = dequantize_array(stored, site.params)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        quantized = fresh(f"{name}_quantized", taken)
        parameters = [node.input[1], _zero_point(model, node, stored.dtype, taken)]
        quantize = helper.make_node(
            "QuantizeLinear", [name, *parameters], [quantized], fresh(f"{name}_QuantizeLinear", taken)
        )
        quantize.attribute.extend(node.attribute)
        node.input[:] = [quantized, *parameters]
        yield quantize
    elif node.op_type in {"QuantizeLinear", "DequantizeLinear"} and is_standard(node):
        kind = np.dtype(np.int8) if len(node.input) < 3 or not node.input[2] else None
        if kind is not None:
            node.input[:] = [*node.input[:2], _zero_point(model, node, kind, taken)]
    yield node


def _zero_point(model: onnx.ModelProto, node: onnx.NodeProto, kind: np.dtype[np.generic], taken: set[str]) -> str:
    """The node's zero point, or a new one of zeros: the parser of 8.5 asks for it."""
    if len(node.input) > 2 and node.input[2]:
        return str(node.input[2])
    shape = numpy_helper.to_array(initializers(model)[node.input[1]]).shape
    name = fresh(f"{node.name}_zero_point", taken)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, kind), name))
    return name
