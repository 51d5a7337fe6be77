"""How wide the tensors are at every node after channels have been removed, without slicing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from avcompress.prune.groups import Coupling, Removed
from engines.onnx_graph import attribute, initializers, is_weighted

Counts = NDArray[np.int64]
"""(groups,) or (n, groups): channels removed of each group, in the order of `Coupling.groups`."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Widths:
    """The nodes of a network and what their widths depend on.

    Attributes:
        nodes: names of those that compute something, in graph order.
        products: (nodes,) whether a node's work grows with its inputs times its outputs.
        dense: (nodes, 2) positions along the axis that can be narrowed, of a node's first input and first output; 1
            where there is none.
        per_channel: (nodes, 2, groups) how many of them one channel of a group takes; a mean where channels differ.
        elements: (nodes,) of the first output of the dense network.
    """

    nodes: tuple[str, ...]
    products: NDArray[np.bool_]
    dense: Floats
    per_channel: Floats
    elements: Floats

    def kept(self, counts: Counts) -> Floats:
        """(n, nodes, 2): the positions that are left of inputs and outputs, for each of (n, groups) counts."""
        return np.asarray(self.dense - np.moveaxis(self.per_channel @ counts.T, -1, 0))


def widths_of(network: onnx.ModelProto, coupling: Coupling) -> Widths:
    """Read from a network's coupling what each node's widths depend on."""
    constants = initializers(network)
    owner = {atom: index for index, group in enumerate(coupling.groups) for atom in coupling.atoms[group.name]}
    sizes = np.array([len(group.channels) for group in coupling.groups])
    known = {name: _per_channel(labels, owner, sizes) for name, labels in coupling.labels.items()}
    nodes = [node for node in network.graph.node if node.output and node.output[0] in coupling.shapes]
    lengths, shares = [], []
    for node in nodes:
        data = next((name for name in node.input if name in coupling.shapes), node.output[0])
        pair = [_along(name, coupling, known, len(sizes)) for name in (data, node.output[0])]
        lengths.append([length for length, _ in pair])
        shares.append([share for _, share in pair])
    return Widths(
        nodes=tuple(node.name for node in nodes),
        products=np.array([is_weighted(node) and not _depthwise(node, constants) for node in nodes]),
        dense=np.array(lengths, dtype=np.float64).reshape(-1, 2),
        per_channel=np.array(shares, dtype=np.float64).reshape(-1, 2, len(sizes)),
        elements=np.array([float(np.prod(coupling.shapes[node.output[0]])) for node in nodes]),
    )


def counts_of(coupling: Coupling, removed: Removed) -> Counts:
    """How many channels of each group are removed."""
    return np.array([len(removed.get(group.name, ())) for group in coupling.groups], dtype=np.int64)


def _per_channel(labels: NDArray[np.int64], owner: Mapping[int, int], sizes: NDArray[np.int64]) -> Floats:
    found = np.zeros(len(sizes))
    atoms, times = np.unique(labels, return_counts=True)
    for atom, count in zip(atoms.tolist(), times.tolist(), strict=True):
        if atom in owner:
            found[owner[atom]] += count
    return found / sizes


def _along(name: str, coupling: Coupling, known: Mapping[str, Floats], groups: int) -> tuple[float, Floats]:
    """The length of a tensor's axis along which labels vary, and what a channel of each group takes of it."""
    labels = coupling.labels.get(name)
    if labels is None or labels.size == 1:
        return 1.0, np.zeros(groups)
    return float(labels.size), known[name]


def _depthwise(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type not in {"Conv", "ConvTranspose"} or node.input[1] not in constants:
        return False
    groups = attribute(node, "group", 1)
    return bool(groups != 1 and constants[node.input[1]].dims[0] % int(str(groups)) == 0) and (
        constants[node.input[1]].dims[1] == 1
    )
