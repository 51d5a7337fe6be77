"""From a network to the smaller one without some of its channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.prune.constant_sizes import nodes_of, with_constant_sizes
from avcompress.prune.groups import Coupling, Group, Place, Removed
from avcompress.prune.kept import Kept
from avcompress.prune.node_sizes import Constants, resize_
from avcompress.spec import ModelError
from engines.norm_statistics import read_statistics, write_statistics_
from engines.onnx_graph import check, drop_unused_initializers, infer_shapes, initializers, set_nodes_
from engines.onnx_load import with_measured_shapes


def without(network: onnx.ModelProto, coupling: Coupling, removed: Removed) -> onnx.ModelProto:
    """The network without some channels; nodes and tensors keep their names.

    Sizes that it computes become constants first, as in view(b, -1). A constant that another node reads, too, is
    copied before it changes.

    Args:
        network: that channel_groups was given; not changed.
        coupling: what it returned.
        removed: at least one channel of each group has to stay.

    Raises ModelError for a group or a channel that is not there, or a group that would be empty.
    """
    gone = removed_atoms(coupling, removed)
    new = with_constant_sizes(network, coupling.shapes)
    if not gone:
        return new
    kept = Kept(coupling, tuple(gone))
    constants = Constants(new)
    nodes = [after for node in nodes_of(new, coupling.shapes) for after in resize_(node, kept, constants)]
    set_nodes_(new, nodes)
    _slice_constants_(new, _positions(coupling, removed))
    for node in new.graph.node:
        _slice_statistics_(node, kept)
    del new.graph.value_info[:]
    return check(with_measured_shapes(infer_shapes(drop_unused_initializers(new))))


def removed_atoms(coupling: Coupling, removed: Removed) -> list[int]:
    """The numbers in `coupling.labels` of what is removed; raises ModelError as `without` does."""
    groups = {group.name: group for group in coupling.groups}
    gone: list[int] = []
    for name, indices in removed.items():
        if name not in groups:
            fixed = next((f.reason for f in coupling.fixed if f.layer == name), None)
            got = f"one whose channels stay ({fixed})" if fixed else "no such group"
            raise ModelError(f"group {name!r}: expected one of channel_groups, got {got}; choose another")
        gone += [coupling.atoms[name][index] for index in _checked(groups[name], indices)]
    return gone


def _checked(group: Group, indices: tuple[int, ...]) -> tuple[int, ...]:
    count = len(group.channels)
    bad = next((index for index in indices if not 0 <= index < count), None)
    if bad is not None:
        raise ModelError(f"group {group.name!r}: expected channels from 0 to {count - 1}, got {bad}; leave it out")
    if len(set(indices)) == count:
        raise ModelError(f"group {group.name!r}: expected one channel at least to stay, got all {count}; keep one")
    return indices


def _positions(coupling: Coupling, removed: Removed) -> dict[tuple[str, int], list[int]]:
    """What to delete of each initializer along each axis."""
    found: dict[tuple[str, int], list[int]] = {}
    places: list[Place] = []
    for group in coupling.groups:
        for index in removed.get(group.name, ()):
            places += group.channels[index].places
    for place in places:
        found.setdefault((place.tensor, place.axis), []).extend(place.positions)
    return found


def _slice_constants_(network: onnx.ModelProto, positions: Mapping[tuple[str, int], list[int]]) -> None:
    tensors = initializers(network)
    for (name, axis), gone in positions.items():
        smaller = np.delete(numpy_helper.to_array(tensors[name]), gone, axis)
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(smaller), name))


def _slice_statistics_(node: onnx.NodeProto, kept: Kept) -> None:
    """What batch normalization left at a convolution that it was folded into."""
    found = read_statistics(node)
    mask = None if found is None else kept.along(node.output[0], 1)
    if found is not None and mask is not None:
        write_statistics_(node, found.mean[mask], found.std[mask])
