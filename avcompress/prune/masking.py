"""The dense network in which some channels count for nothing: what the smaller one has to agree with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.prune.constant_sizes import with_constant_sizes
from avcompress.prune.groups import Coupling, Removed
from avcompress.prune.kept import Kept
from avcompress.prune.slicing import removed_atoms
from avcompress.spec import WEIGHTED
from engines.onnx_graph import check, fresh, set_nodes_, use_counts

_READ_SEVERAL = WEIGHTED | {"Einsum", "LpNormalization", "ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"}


def masked(network: onnx.ModelProto, coupling: Coupling, removed: Removed) -> onnx.ModelProto:
    """The network with masks of zeros and ones before whatever adds up channels: removed ones count for nothing.

    It computes the same as `without` where no removed group is inexact. Node and tensor names stay; masks are added.

    Args:
        network: that channel_groups was given; not changed.
        coupling: what it returned.
        removed: at least one channel of each group has to stay.

    Raises ModelError as `without` does.
    """
    kept = Kept(coupling, tuple(removed_atoms(coupling, removed)))
    new = with_constant_sizes(network, coupling.shapes)
    taken = set(use_counts(new)) | {output for node in new.graph.node for output in node.output}
    set_nodes_(new, [node for old in list(new.graph.node) for node in _masked(old, new, kept, taken)])
    return check(new)


def _masked(old: onnx.NodeProto, network: onnx.ModelProto, kept: Kept, taken: set[str]) -> Iterator[onnx.NodeProto]:
    node = onnx.NodeProto()
    node.CopyFrom(old)
    for index, name in enumerate(node.input):
        if node.op_type in _READ_SEVERAL and name in kept.coupling.labels and kept.axis(name) is not None:
            mask, product = (fresh(f"{name}.{kind}", taken) for kind in ("mask", "masked"))
            values = kept.mask(name).astype(np.float32)
            network.graph.initializer.append(numpy_helper.from_array(values, mask))
            yield helper.make_node("Mul", [name, mask], [product], name=fresh(f"{node.name}/{mask}", taken))
            node.input[index] = product
    yield node
