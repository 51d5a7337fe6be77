"""What every weighted node of a network with Q/DQ shall compute in, read from its types."""

from __future__ import annotations

import onnx

from engines.network import float_nodes, weighted_nodes
from engines.onnx_graph import Edge
from engines.qdq import QdqSite, qdq_sites

_FORMATS = {"int8": "int8", "float8e4m3fn": "fp8", "uint8": "int8", "int4": "int4"}


def planned_precisions(model: onnx.ModelProto) -> dict[str, str]:
    """int8, fp8, fp16, bf16 or fp32 for each weighted node, by name, in graph order.

    int8 and fp8: both operands are quantized so. What has one float operand is computed in float.
    """
    floats = float_nodes(model)
    by_edge = sites_by_edge(model)
    found = {}
    for name in weighted_nodes(model):
        formats = {_format(by_edge.get((name, index))) for index in (0, 1)}
        found[name] = formats.pop() if len(formats) == 1 and "" not in formats else floats.get(name, "fp32")
    return found


def _format(site: QdqSite | None) -> str:
    return "" if site is None or site.params is None else _FORMATS[site.params.dtype]


def sites_by_edge(model: onnx.ModelProto) -> dict[Edge, QdqSite]:
    """The quantization at each node input that has one."""
    return {edge: site for site in qdq_sites(model) for edge in site.edges}
