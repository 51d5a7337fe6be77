"""A user's own importance: numbers for each output channel of a layer, from a JSON file or a function."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import onnx

from avcompress.prune.groups import Coupling, Group
from avcompress.prune.importance.scores import check_scores, lines
from avcompress.prune.weights import Weight, ready, weights_of
from avcompress.spec import Array, DataError, ModelError
from engines.onnx_graph import initializers

ByLayer = Mapping[str, Sequence[float]]
"""By a layer's node name, a number for each of its output channels."""


def read_scores(path: Path) -> dict[str, list[float]]:
    """Read `{"layer": [number for each output channel], ...}`; raises DataError for anything else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a JSON file of scores, got {type(error).__name__}: {error}; write "
            '{"layer": [number for each output channel]}'
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object of layers, got a {type(found).__name__}; give each layer its list")
    for layer, values in found.items():
        numbers = isinstance(values, list) and all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in values
        )
        if not numbers:
            raise DataError(f"{path}: expected a list of numbers for layer {layer!r}, got {str(values)[:60]}; mend it")
    return found


def given(network: onnx.ModelProto, coupling: Coupling, by_layer: ByLayer) -> dict[str, Array]:
    """Scores of groups from those of layers: a channel's is the sum over the layers that compute it and are named.

    A group may be named, too, with a number for each of its channels. Those of which nothing is named have no scores.
    Raises ModelError for a layer that is not there or cannot be pruned, another number of channels, or numbers that are
    not finite, or below 0.
    """
    plain = ready(network)
    constants = initializers(plain)
    weights = {weight.layer: weight for weight in weights_of(plain)}
    found: dict[str, Array] = {}
    for layer, numbers in by_layer.items():
        values = np.asarray(numbers, np.float64)
        groups = [group for group in coupling.groups if layer in group.producers and layer in weights]
        parts = {}
        if groups:
            weight = weights[layer]
            values = _by_output(weight, values, tuple(constants[weight.tensor].dims))
            parts = {group.name: _by_channel(group, weight, values) for group in groups}
        else:
            parts = {layer: _of_group(layer, values, coupling)}
        for name, scores in parts.items():
            found[name] = found.get(name, np.zeros(len(scores))) + scores
    check_scores(coupling, found)
    return found


def _by_output(weight: Weight, values: Array, shape: tuple[int, ...]) -> Array:
    """The numbers along the axis of the layer's weight, in which groups of a transposed convolution are one."""
    by_group = weight.groups if weight.kind == "ConvTranspose" else 1
    width = shape[weight.outputs]
    if values.shape != (width * by_group,):
        raise _wrong_count(weight.layer, len(values), width * by_group)
    return np.asarray(values.reshape(by_group, width).sum(0))


def _by_channel(group: Group, weight: Weight, values: Array) -> Array:
    own = [line for line in lines(group) if (line.tensor, line.axis) == (weight.tensor, weight.outputs)]
    return np.asarray(np.sum([line.by_channel(values) for line in own], axis=0))


def _of_group(name: str, values: Array, coupling: Coupling) -> Array:
    group = next((group for group in coupling.groups if group.name == name), None)
    if group is None:
        raise _unknown(name, coupling)
    if len(values) != len(group.channels):
        raise _wrong_count(name, len(values), len(group.channels))
    return values


def _wrong_count(layer: str, got: int, expected: int) -> ModelError:
    return ModelError(
        f"importance: expected {expected} scores of layer {layer!r}, one for each output channel, got {got}; compute "
        "them of this network"
    )


def _unknown(layer: str, coupling: Coupling) -> ModelError:
    known = list(dict.fromkeys(layer for group in coupling.groups for layer in (*group.producers, group.name)))
    reason = next((fixed.reason for fixed in coupling.fixed if fixed.layer == layer), None)
    if reason is not None:
        return ModelError(
            f"importance: expected layers that can be pruned, got {layer!r}, which cannot: {reason}; leave it out"
        )
    near = ", ".join(get_close_matches(layer, known, n=3, cutoff=0.0))
    return ModelError(f"importance: expected layers that can be pruned, got {layer!r}; the nearest are {near}")
