"""Importance by the scales of batch normalization.

Source: Liu et al.: Learning Efficient Convolutional Networks through Network Slimming, arXiv:1708.06519.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.prune.groups import Coupling
from avcompress.prune.importance.scores import relative, summed
from avcompress.prune.weights import ready
from avcompress.spec import Array, ModelError
from engines.onnx_graph import initializers


def bn_scale(network: onnx.ModelProto, coupling: Coupling) -> dict[str, Array]:
    """The magnitudes of the scales that batch normalizations give a channel, their sum, in parts of the group's mean.

    Groups without normalization have no scores.
    Raises ModelError for a network whose groups have none at all, as after it was folded in.
    """
    plain = ready(network)
    constants = initializers(plain)
    scales = {node.input[1] for node in plain.graph.node if node.op_type == "BatchNormalization"} & constants.keys()

    def values_of(tensor: str, axis: int) -> Array | None:  # noqa: ARG001 (it has one)
        return np.abs(numpy_helper.to_array(constants[tensor]).astype(np.float64)) if tensor in scales else None

    found = summed(coupling, values_of)
    if not found:
        raise ModelError(
            "importance bn_scale: expected batch normalization behind layers that can be pruned, got none; it may be "
            "folded into the weights: choose l1, l2 or taylor"
        )
    return relative(found)
