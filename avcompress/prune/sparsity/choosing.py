"""Which weights become sparse."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

import onnx

from avcompress.prune.sparsity.checking import Kind
from avcompress.prune.sparsity.two_four import takes_two_four
from avcompress.prune.weights import Weight, ready, weights_of
from avcompress.spec import ModelError, RecipeError
from engines.onnx_graph import initializers


def sparse_weights(network: onnx.ModelProto, kind: Kind, protected: Iterable[str] = ()) -> tuple[str, ...]:
    """The names of the constants that may become sparse, in graph order.

    Of unstructured sparsity all weights of layers; of 2:4 those that sparse kernels may take. A constant that several
    layers share is left out with any of them.

    Args:
        network: float.
        kind: of sparsity.
        protected: patterns of layers' names that stay as they are.

    Raises RecipeError for a pattern that fits no layer, ModelError when no weight is left.
    """
    plain = ready(network)
    shapes = {name: tuple(tensor.dims) for name, tensor in initializers(plain).items()}
    weights = weights_of(plain)
    patterns = tuple(protected)
    _refuse_unmatched(patterns, [weight.layer for weight in weights])

    def may(weight: Weight) -> bool:
        fits = kind == "unstructured" or takes_two_four(weight, shapes[weight.tensor])
        return fits and not any(fnmatchcase(weight.layer, pattern) for pattern in patterns)

    barred = {weight.tensor for weight in weights if not may(weight)}
    found = tuple(dict.fromkeys(weight.tensor for weight in weights if weight.tensor not in barred))
    if not found:
        what = "whose inputs go in fours and have no groups " if kind == "2:4" else ""
        raise ModelError(
            f"sparsity: expected layers {what}that are not protected, got none; protect fewer, or leave `sparsify` out"
        )
    return found


def _refuse_unmatched(patterns: Iterable[str], layers: list[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            near = ", ".join(get_close_matches(pattern.strip("*"), layers, n=3, cutoff=0.0))
            raise RecipeError(
                f"sparsify.protected: expected names or patterns of layers, got {pattern!r}, which fits none; the "
                f"nearest are {near}"
            )
