"""Unstructured sparsity: single weights become 0, the least important ones.

Sources: magnitude: Han et al., arXiv:1506.02626; |w g|: Lee et al.: SNIP, arXiv:1810.02340, equation 5; of each layer
or of all layers together: Frankle and Carbin, arXiv:1803.03635, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx
from torch import fx

from avcompress.prune.importance.derivatives import gradients, weights_by_name
from avcompress.prune.importance.lesson import Lesson
from avcompress.prune.sparsity.masks import Mask, weight_values
from avcompress.prune.weights import layers_of
from avcompress.spec import Array, ModelError, RecipeError

Scope = Literal["local", "global"]
WeightScores = Mapping[str, Array]
"""By the name of a constant, how important each of its values is: of its shape, 0 or above."""


def magnitude(network: onnx.ModelProto) -> dict[str, Array]:
    """The magnitude of every weight of a layer."""
    return {name: np.abs(values.astype(np.float64)) for name, (_, values) in weight_values(network).items()}


def saliency(module: fx.GraphModule, lesson: Lesson) -> dict[str, Array]:
    """|w g| of every weight of a layer, the mean over batches: by how much the loss changes without it, to first order.

    Without labels by `response`, as in `avcompress.prune.importance.lesson`.
    """
    weights = weights_by_name(module, dict.fromkeys(weight.tensor for weight, _ in layers_of(module)))
    totals = {name: np.zeros(tuple(weight.shape)) for name, weight in weights.items()}
    count = 0
    for found in gradients(module, weights, lesson):
        for name, weight in weights.items():
            totals[name] += (weight.detach() * found[name]).abs().cpu().double().numpy()
        count += 1
    return {name: total / max(count, 1) for name, total in totals.items()}


def unstructured(scores: WeightScores, share: float, scope: Scope = "local") -> dict[str, Mask]:
    """Masks that leave out a share of the values, those with the lowest scores; of equal ones the later ones go.

    Local: of each tensor that share, rounded half to even as `round` has it. Global: of all of them together; a tensor
    may lose all but one.
    Raises RecipeError for a share that is not within 0 <= share < 1, ModelError for scores that are not finite.
    """
    if not 0 <= share < 1:
        raise RecipeError(
            f"sparsify.sparsity: expected 0 <= sparsity < 1, got {share}; give the share of weights to zero"
        )
    _check(scores)
    if scope == "local":
        return {name: _least_out(values, round(share * values.size)) for name, values in scores.items()}
    return _of_all(scores, share)


def _check(scores: WeightScores) -> None:
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise ModelError(
                f"sparsity: expected finite scores of {name!r}, got {values[~np.isfinite(values)][0]}; look for NaN in "
                "the weights, the images or the loss"
            )


def _least_out(values: Array, count: int) -> Mask:
    """True but for the `count` lowest values; at least one is True."""
    return ~_lowest(values.reshape(-1), min(count, values.size - 1)).reshape(values.shape)


def _lowest(values: Array, count: int) -> Mask:
    """True at the `count` lowest of (values,); of equal ones at the later ones. No sorting: there are millions."""
    if count <= 0:
        return np.zeros(len(values), bool)
    limit = np.partition(values, count - 1)[count - 1]
    found = values < limit
    equal = np.flatnonzero(values == limit)
    found[equal[len(equal) - (count - int(found.sum())) :]] = True
    return np.asarray(found)


def _of_all(scores: WeightScores, share: float) -> dict[str, Mask]:
    flat = np.concatenate([values.reshape(-1) for values in scores.values()])
    ends = np.cumsum([values.size for values in scores.values()])
    for part, values in zip(np.split(flat, ends[:-1]), scores.values(), strict=True):
        part[int(values.argmax())] = np.inf  # stays, whatever the others are
    count = min(round(share * flat.size), flat.size - len(scores))
    keep = np.split(~_lowest(flat, count), ends[:-1])
    return {name: mask.reshape(scores[name].shape) for name, mask in zip(scores, keep, strict=True)}
