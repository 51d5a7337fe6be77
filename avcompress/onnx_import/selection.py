"""Operators that choose among predictions, as post-processing inside a graph does: nothing can be learned through them.

What is said of them is where to cut the network instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from avcompress.onnx_import.operand import Operand
from engines.onnx_graph import node_inputs

_CHOOSING = frozenset(
    {"Compress", "If", "Loop", "MaxRoiPool", "NonMaxSuppression", "NonZero", "RoiAlign", "Scan", "Unique"}
)
_PREDICTIONS_RANK = 3
"""(1, cells, values of a cell), or the other way round."""
_SHOWN = 2


def chooses(kind: str) -> bool:
    """Whether an operator type selects: one of ONNX, or a plugin for it, as EfficientNMS_TRT."""
    return kind in _CHOOSING or "nms" in kind.lower()


def cuts_before(graph: onnx.GraphProto, known: Mapping[str, Operand]) -> list[Operand]:
    """The last tensors of predictions that all outputs are computed from, at most two, which may differ by a Transpose.

    There are none where the outputs of several heads are never joined.

    Args:
        graph: in topological order.
        known: the tensors that could be imported, by name.
    """
    parents: dict[str, str | None] = {value.name: None for value in graph.input}
    depths = dict.fromkeys(parents, 0)
    for node in graph.node:
        parent = _common([name for name in node_inputs(node) if name in parents], parents, depths)
        if parent is not None:
            parents.update(dict.fromkeys(node.output, parent))
            depths.update(dict.fromkeys(node.output, depths[parent] + 1))
    name = _common([value.name for value in graph.output if value.name in parents], parents, depths)
    found: list[Operand] = []
    while name is not None and len(found) < _SHOWN:
        found += [known[name]] if _is_prediction(known.get(name)) else []
        name = parents[name]
    return found


def _common(names: Iterable[str], parents: Mapping[str, str | None], depths: Mapping[str, int]) -> str | None:
    """The last tensor that all of some depend on, where `parents` has that of each one; one alone is its own."""
    found: str | None = None
    for index, name in enumerate(names):
        other: str | None = name
        found = name if not index else found
        while found != other and found is not None and other is not None:
            if depths[found] < depths[other]:
                other = parents[other]
            else:
                found = parents[found]
        found = found if found == other else None
    return found


def _is_prediction(operand: Operand | None) -> bool:
    if operand is None or operand.rank != _PREDICTIONS_RANK:
        return False
    return operand.shape[0] == 1 and operand.meta.is_floating_point()
