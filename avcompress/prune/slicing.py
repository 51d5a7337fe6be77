"""From a network to the smaller one without some of its channels."""

from __future__ import annotations

import onnx

from avcompress.prune.groups import Coupling, Removed


def without(network: onnx.ModelProto, coupling: Coupling, removed: Removed) -> onnx.ModelProto:
    """The network without some channels; nodes and tensors keep their names.

    Args:
        network: that channel_groups was given; not changed.
        coupling: what it returned.
        removed: at least one channel of each group has to stay.

    Raises ModelError for a group or a channel that is not there, or a group that would be empty.
    """
    raise NotImplementedError
