"""Importance by the size of weights.

Sources: L1: Li et al.: Pruning Filters for Efficient ConvNets, arXiv:1608.08710; over all coupled layers: Fang et al.:
DepGraph, arXiv:2301.12900, section 3.3.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.prune.groups import Coupling
from avcompress.prune.importance.scores import along, relative, summed
from avcompress.prune.weights import ready, weights_of
from avcompress.spec import Array
from engines.onnx_graph import fold_batch_norms, initializers


def l1(network: onnx.ModelProto, coupling: Coupling) -> dict[str, Array]:
    """The sum of the magnitudes of all weights of a channel: those that compute it, and those that read it.

    Weights count as they are once batch normalization is folded in: a network exported with it and one exported
    without it have the same scores. In parts of the group's mean.
    """
    return _magnitude(network, coupling, 1)


def l2(network: onnx.ModelProto, coupling: Coupling) -> dict[str, Array]:
    """The same of squares: their sum, without the root, so that scores of several channels add up."""
    return _magnitude(network, coupling, 2)


def _magnitude(network: onnx.ModelProto, coupling: Coupling, power: int) -> dict[str, Array]:
    plain = ready(network)
    folded = fold_batch_norms(plain)
    constants = {**initializers(plain), **initializers(folded)}
    tensors = {weight.tensor for weight in weights_of(plain)}

    def values_of(tensor: str, axis: int) -> Array | None:
        if tensor not in tensors:
            return None
        size = np.abs(numpy_helper.to_array(constants[tensor]).astype(np.float64))
        return along(size**power, axis)

    return relative(summed(coupling, values_of))
