"""What the report tells of a network that was made smaller: each layer as it was, and what has become of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.running.compress import Compressed
from engines.onnx_graph import fold_batch_norms, initializers, is_weighted, macs, parameters, shapes
from validation.report import LayerTime, LayerWidth, SmallerFacts


def smaller_facts(compressed: Compressed, times: Mapping[str, tuple[LayerTime, ...]]) -> SmallerFacts | None:
    """Hold the smaller network against the float network that drops are measured against; None where there is none.

    `times` are by engine those of the reference's layers.
    """
    if compressed.smaller is None:
        return None
    before, after = (fold_batch_norms(onnx.load(path)) for path in (compressed.reference, compressed.smaller))
    prunings = compressed.prunings
    fixed = {layer: reason for pruning in reversed(prunings) for layer, reason in pruning.fixed.items()}
    layers = tuple(_layers(before, after, fixed))
    return SmallerFacts(
        macs_before=sum(layer.macs_before for layer in layers),
        macs_after=sum(layer.macs_after for layer in layers),
        parameters_before=parameters(before),
        parameters_after=parameters(after),
        layers=layers,
        prunings=prunings,
        factorizations=compressed.factorizations,
        rewritings=compressed.rewritings,
        layer_times=dict(times),
    )


def _layers(before: onnx.ModelProto, after: onnx.ModelProto, fixed: Mapping[str, str]) -> Iterator[LayerWidth]:
    old, new = ({node.name: node for node in model.graph.node if is_weighted(node)} for model in (before, after))
    counts, fewer = macs(before), macs(after)
    widths, zeros = [_widths(model) for model in (before, after)], _zeros(after)
    for name, node in old.items():
        parts = [part for part in new if part == name or (part not in old and part.startswith(f"{name}/"))]
        yield LayerWidth(
            name=name,
            op=node.op_type,
            before=widths[0].get(name, 0),
            after=widths[1].get(parts[-1], 0) if parts else 0,
            parts=len(parts),
            macs_before=counts[name],
            macs_after=sum(fewer[part] for part in parts),
            zeros=_share(zeros[part] for part in parts),
            fixed=fixed.get(name, ""),
        )


def _widths(model: onnx.ModelProto) -> dict[str, int]:
    """The output channels of every weighted layer."""
    known = shapes(model)
    found = {}
    for node in model.graph.node:
        shape = known.get(node.output[0], ()) if is_weighted(node) else ()
        if shape:
            found[node.name] = shape[1] if node.op_type.startswith("Conv") else shape[-1]
    return found


def _zeros(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Of every weighted layer, how many of its weights are 0, and how many there are."""
    constants = initializers(model)
    found = {}
    for node in model.graph.node:
        if is_weighted(node):
            weights = [numpy_helper.to_array(constants[name]) for name in node.input[:2] if name in constants]
            found[node.name] = (sum(int(np.sum(w == 0)) for w in weights), sum(w.size for w in weights))
    return found


def _share(counts: Iterable[tuple[int, int]]) -> float:
    zeros, values = np.sum([(0, 0), *counts], axis=0)
    return round(float(zeros / values), 4) if values else 0.0
