"""The labels of a whole network: every node's rule in order, then whatever makes all tensors stay rectangular."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from avcompress.onnx_import import import_onnx
from avcompress.onnx_import.graph import names_of
from avcompress.onnx_import.operand import OnnxNode
from avcompress.prune.constant_sizes import nodes_of, with_constant_sizes
from avcompress.prune.labels import varying
from avcompress.prune.rules import Labelling, Step, none, propagate
from avcompress.spec import ModelError

_QUANTIZED = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})


@dataclass(frozen=True, eq=False)
class Labelled:
    """A network with constant sizes, its nodes, the shapes of what it computes, and the labels of all its tensors."""

    nodes: tuple[OnnxNode, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    known: Labelling


def labelled(network: onnx.ModelProto) -> Labelled:
    """Label every tensor; raises ModelError for a network that is quantized, or that import_onnx does not take."""
    quantized = next((node for node in network.graph.node if node.op_type in _QUANTIZED), None)
    if quantized is not None:
        raise ModelError(
            f"node {quantized.name!r} ({quantized.op_type}): expected a float network, got a quantized one; "
            "prune before it is quantized"
        )
    module = import_onnx(network)
    shapes = {name: node.meta["shape"] for name, node in names_of(module.graph.nodes).items()}
    ready = with_constant_sizes(network, shapes)
    known = Labelling()
    for name in module.meta["inputs"]:
        known.tensors[name] = none(len(shapes[name]))
    nodes = tuple(nodes_of(ready, shapes))
    for node in nodes:
        found = propagate(Step(node, known, shapes))
        known.tensors.update((name, labels) for name, labels in zip(node.proto.output, found, strict=False) if name)
    _protect_twofold_(known)
    outputs = tuple(value.name for value in ready.graph.output)
    for name in outputs:
        labels = known.tensors.get(name, known.constants.get((name, None)))
        if labels is not None:
            known.atoms.protect(labels, f"they are the network's output {name!r}")
    _make_rectangular_(known)
    return Labelled(nodes, outputs, shapes, known)


def _protect_twofold_(known: Labelling) -> None:
    """A constant that is a weight here and an operand by position there has two kinds of labels: both stay."""
    by_position = {name for name, axis in known.constants if axis is None}
    for (name, axis), labels in known.constants.items():
        if axis is not None and name in by_position:
            for claimed in (labels, known.constants[name, None]):
                known.atoms.protect(claimed, f"the constant {name!r} is used in two ways")


def _make_rectangular_(known: Labelling) -> None:
    """Unite until every tensor varies along one axis at most: what is removed are whole slices then."""
    atoms, settled = known.atoms, False
    while not settled:
        settled = True
        constants = {name: labels for (name, axis), labels in known.constants.items() if axis is None}
        for name, labels in {**known.tensors, **constants}.items():
            found = atoms.compact(labels)
            if len(varying(found)) > 1:
                atoms.rectangular(found, name)
                settled = False
