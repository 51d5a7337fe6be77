"""Whether zeros are still there: in a network at any later stage, quantized and exported, too.

Weights are looked up by the names that their constants had in the float network. Stored as integers they count as what
they are dequantized to; where one constant became several, because batch normalization was folded into each, all count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import onnx

from avcompress.onnx_import.constants import values_of
from avcompress.prune.sparsity.masks import Mask, Masks
from avcompress.prune.sparsity.two_four import is_two_four
from avcompress.prune.weights import Weight, ready, weights_among
from avcompress.spec import Array, ModelError
from engines.qdq import qdq_sites

Kind = Literal["unstructured", "2:4"]


class _Stored(NamedTuple):
    """A weight as a network computes with it."""

    weight: Weight
    values: Array


def zero_masks(network: onnx.ModelProto, names: Iterable[str]) -> dict[str, Mask]:
    """Masks of what is 0 in these weights now; raises ModelError for a weight that is not there."""
    found = _stored(network)
    return {name: _of(found, name)[0].values != 0 for name in dict.fromkeys(names)}


def check_zeros(network: onnx.ModelProto, masks: Masks) -> None:
    """Raises ModelError where a mask has a zero and the network has not, and for a weight of another shape."""
    found = _stored(network)
    for name, mask in masks.items():
        for stored in _of(found, name):
            if stored.values.shape != mask.shape:
                raise ModelError(
                    f"sparsity: expected {name!r} of shape {mask.shape}, got {stored.values.shape}; put `sparsify` "
                    "after the stages that change shapes"
                )
            broken = np.argwhere((stored.values != 0) & ~mask)
            if len(broken):
                raise _broken(stored, f"0 at {tuple(int(i) for i in broken[0])}", len(broken))


def check_sparse(network: onnx.ModelProto, names: Iterable[str], kind: Kind) -> None:
    """Raises ModelError for a weight that is not sparse: without a zero, or, for 2:4, with three values among four."""
    found = _stored(network)
    for name in dict.fromkeys(names):
        for stored in _of(found, name):
            if kind == "2:4" and not is_two_four(stored.values, stored.weight.inputs):
                raise _broken(stored, "two zeros among every four inputs", 0)
            if kind == "unstructured" and stored.values.all():
                raise _broken(stored, "zeros", 0)


def zero_shares(network: onnx.ModelProto) -> dict[str, float]:
    """The share of zeros in every weight of a layer, by the name of its constant in the float network."""
    return {name: float((stored.values == 0).mean()) for name, stored in _stored(network).items()}


def _broken(stored: _Stored, expected: str, count: int) -> ModelError:
    got = f"{count} other values" if count else "others"
    return ModelError(
        f"sparsity: expected {expected} in {stored.weight.tensor!r}, the weight of layer {stored.weight.layer!r}, got "
        f"{got}; a stage after `sparsify` did not keep its zeros"
    )


def _stored(network: onnx.ModelProto) -> dict[str, _Stored]:
    """By the name in the float network, what each layer multiplies by."""
    plain = ready(network)
    values, _ = values_of(plain.graph)
    constants = {name: (name, value) for name, value in values.items()}
    nodes = {node.output[0]: node for node in plain.graph.node if node.op_type == "DequantizeLinear"}
    for site in qdq_sites(plain):
        source = nodes[site.output].input[0]
        if site.constant and source in values:
            constants[site.output] = (site.tensor, values[source])
    shapes = {name: value.shape for name, (_, value) in constants.items()}
    found: dict[str, _Stored] = {}
    for weight in weights_among(plain, shapes):
        name, value = constants[weight.tensor]
        found.setdefault(name, _Stored(weight._replace(tensor=name), value))
    return found


def _of(found: dict[str, _Stored], name: str) -> list[_Stored]:
    pattern = re.compile(rf"{re.escape(name)}(\.folded(_\d+)?)?")
    own = [stored for other, stored in found.items() if pattern.fullmatch(other)]
    if not own:
        raise ModelError(
            f"sparsity: expected a weight {name!r} of a layer, got none of that name; name weights of this network"
        )
    return own
