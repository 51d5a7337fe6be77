"""Constants of element-wise operators, given as many axes as what they meet.

A PReLU's slopes (C, 1, 1) beside an image (N, C, H, W) mean the same as (1, C, 1, 1). To OpenVINO 2026.4 they do not:
operators with a constant of fewer axes take images channels first, and convolutions channels last, so that every one of
them is put in between two reorders of the whole image.
"""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from avcompress.rewrite.values import Allowed, Change
from engines.onnx_graph import copy, drop_unused_initializers, fresh, initializers, is_standard, shapes

_ELEMENTWISE = frozenset({"Add", "Div", "Max", "Min", "Mul", "PRelu", "Sub"})


def full_rank(network: onnx.ModelProto, allowed: Allowed) -> Change:
    """Give constants of several axes, but fewer than what they meet, axes of 1 in front, as broadcasting does."""
    new = copy(network)
    constants, known = initializers(new), shapes(new)
    taken = {*constants, *(output for node in new.graph.node for output in node.output)}
    names: dict[tuple[str, int], str] = {}  # what several nodes share stays shared
    changed: dict[str, None] = {}
    for node in new.graph.node:
        if node.op_type not in _ELEMENTWISE or not is_standard(node) or not allowed(node.name):
            continue
        rank = max((len(known.get(name, ())) for name in node.input), default=0)
        for place, name in enumerate(node.input):
            if name not in constants or not 1 < len(constants[name].dims) < rank:
                continue
            if (name, rank) not in names:
                names[name, rank] = fresh(f"{name}.full_rank", taken)
                value = numpy_helper.to_array(constants[name])
                value = value.reshape((1,) * (rank - value.ndim) + value.shape)
                new.graph.initializer.append(numpy_helper.from_array(value, names[name, rank]))
            node.input[place] = names[name, rank]
            changed[node.name] = None
    return Change(drop_unused_initializers(new), tuple(changed)) if changed else Change(network, ())
