"""2:4 sparsity: of every four weights at least two are 0, as the sparse tensor cores of NVIDIA GPUs since Ampere skip.

The four are neighbours along the input channels, for each output channel and each place of the kernel: with a weight
(K, C, R, S) they are [k, 4i : 4i + 4, r, s], and C is a multiple of 4. In a matrix they lie along the axis that is
summed over.

Sources: TensorRT's developer guide, "Sparsity"; Mishra et al.: Accelerating Sparse Deep Neural Networks,
arXiv:2104.08378, section 3, which keeps the two of the largest magnitude.
"""

from __future__ import annotations

import numpy as np
import onnx

from avcompress.prune.sparsity.masks import Mask
from avcompress.prune.sparsity.unstructured import WeightScores
from avcompress.prune.weights import Weight, ready, weights_of
from avcompress.spec import Array, ModelError

FOUR, TWO = 4, 2


def two_four_masks(network: onnx.ModelProto, scores: WeightScores) -> dict[str, Mask]:
    """The masks of the weights that there are scores of, along each one's own inputs.

    Raises ModelError for a weight that cannot be 2:4 sparse, or for scores that are not finite.
    """
    found = {}
    layers = {weight.tensor: weight for weight in weights_of(ready(network))}
    for name, values in scores.items():
        weight = layers.get(name)
        if weight is None or not takes_two_four(weight, values.shape):
            got = "no such weight" if weight is None else f"{weight.groups} groups of {values.shape[weight.inputs]}"
            raise ModelError(
                f"sparsity 2:4: expected weight {name!r} to have one group of inputs in fours, got {got}; leave it out"
            )
        found[name] = two_four(values, weight.inputs)
    return found


def takes_two_four(weight: Weight, shape: tuple[int, ...]) -> bool:
    """Whether sparse kernels may take the layer: its inputs go in fours, and it has no groups."""
    return weight.groups == 1 and shape[weight.inputs] % FOUR == 0


def two_four(scores: Array, inputs: int) -> Mask:
    """The mask that keeps the two best of every four along the axis `inputs`; of equal ones the first.

    Args:
        scores: of each weight, 0 or above, as its magnitude: any shape, a multiple of 4 along that axis.
        inputs: the axis.

    Raises ModelError for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise ModelError("sparsity 2:4: expected finite scores, got NaN or infinity; look for NaN in the weights")
    fours = _fours(scores, inputs)
    best = np.argsort(-fours, axis=-1, kind="stable")[..., :TWO]
    keep = np.zeros(fours.shape, bool)
    np.put_along_axis(keep, best, True, axis=-1)
    flat = keep.reshape(*fours.shape[:-2], -1)
    return np.ascontiguousarray(np.moveaxis(flat, -1, inputs))


def is_two_four(values: Array, inputs: int) -> bool:
    """Whether at least two of every four values along the axis are 0."""
    return values.shape[inputs] % FOUR == 0 and bool(((_fours(values, inputs) != 0).sum(-1) <= TWO).all())


def _fours(values: Array, inputs: int) -> Array:
    """(..., inputs / 4, 4)."""
    last = np.moveaxis(values, inputs, -1)
    return last.reshape(*last.shape[:-1], -1, FOUR)
