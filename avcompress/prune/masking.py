"""The dense network in which some channels count for nothing: what the smaller one has to agree with."""

from __future__ import annotations

import onnx

from avcompress.prune.groups import Coupling, Removed


def masked(network: onnx.ModelProto, coupling: Coupling, removed: Removed) -> onnx.ModelProto:
    """The network with masks before whatever reads several channels at once: the removed ones are zeros there."""
    raise NotImplementedError
