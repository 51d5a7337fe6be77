"""Masks as values: which weights of a network stay, by the name of their constant; and the network with only those."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from avcompress.prune.weights import Weight, ready, weights_of
from avcompress.spec import Array, ModelError
from engines.onnx_graph import initializers

Mask = NDArray[np.bool_]
"""Of a tensor's shape; False where it is 0."""
Masks = Mapping[str, Mask]
"""By the names of constants."""


def weight_values(network: onnx.ModelProto) -> dict[str, tuple[Weight, Array]]:
    """The weights of a float network's layers by the name of their constant, in graph order.

    Of several layers that share a constant the first one's axes count.
    """
    plain = ready(network)
    constants = initializers(plain)
    found: dict[str, tuple[Weight, Array]] = {}
    for weight in weights_of(plain):
        if weight.tensor not in found:
            found[weight.tensor] = (weight, numpy_helper.to_array(constants[weight.tensor]))
    return found


def apply_masks(network: onnx.ModelProto, masks: Masks) -> onnx.ModelProto:
    """The network with zeros where the masks say so; all else keeps its bytes.

    Raises ModelError for a mask of a constant that is not there, or of another shape.
    """
    new = ready(network)
    constants = initializers(new)
    for name, mask in masks.items():
        stored = constants.get(name)
        if stored is None or tuple(stored.dims) != mask.shape:
            got = "none of that name" if stored is None else f"one of shape {tuple(stored.dims)}"
            raise ModelError(
                f"sparsity: expected a constant {name!r} of shape {mask.shape}, got {got}; compute the masks of this "
                "network"
            )
        values = numpy_helper.to_array(stored)
        stored.CopyFrom(numpy_helper.from_array(np.where(mask, values, values.dtype.type(0)), name))
    return new


def sparsity(masks: Masks) -> float:
    """The share of the values that are 0."""
    count = sum(mask.size for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / count if count else 0.0
