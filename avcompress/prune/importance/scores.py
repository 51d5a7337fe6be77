"""How important each channel is, and how one gets there from the values of its tensors.

A score is 0 or above; the channels with the lowest are removed first, within a group and, where scores of different
groups are comparable, among all of them. A group that a criterion says nothing about has no scores, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from avcompress.prune.groups import Coupling, Group
from avcompress.spec import Array, ModelError

Scores = Mapping[str, Array]
"""By a group's name, (channels,) float64, 0 or above: what the network loses with each channel."""


class Line(NamedTuple):
    """Where a group's channels lie along one axis of a tensor.

    Attributes:
        tensor, axis: as in Place.
        positions: along the axis, (values,).
        channels: which channel each position belongs to, (values,).
        width: how many channels the group has.
    """

    tensor: str
    axis: int
    positions: Array
    channels: Array
    width: int

    def by_channel(self, values: Array) -> Array:
        """Sums over the positions of each channel, (channels,) float64, of a value for each position along the axis."""
        return np.bincount(self.channels, values[self.positions], self.width)


def lines(group: Group) -> tuple[Line, ...]:
    """All places of a group, those of one tensor and axis together."""
    found: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
    for index, channel in enumerate(group.channels):
        for place in channel.places:
            positions, channels = found.setdefault((place.tensor, place.axis), ([], []))
            positions += place.positions
            channels += [index] * len(place.positions)
    count = len(group.channels)
    return tuple(Line(*key, np.array(p), np.array(c), count) for key, (p, c) in found.items())


def along(values: Array, axis: int) -> Array:
    """Sums over all other axes, float64."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    return np.asarray(values.sum(axis=others, dtype=np.float64))


def summed(coupling: Coupling, values_of: Callable[[str, int], Array | None]) -> dict[str, Array]:
    """By group, the sums over all places for which there are values along the axis of a tensor.

    A group with none of them is left out.
    """
    found = {}
    for group in coupling.groups:
        parts = [line.by_channel(values) for line, values in _valued(group, values_of)]
        if parts:
            found[group.name] = np.sum(parts, axis=0)
    return found


def _valued(group: Group, values_of: Callable[[str, int], Array | None]) -> Iterator[tuple[Line, Array]]:
    for line in lines(group):
        values = values_of(line.tensor, line.axis)
        if values is not None:
            yield line, values


def relative(scores: Scores) -> dict[str, Array]:
    """In parts of the mean of the group: what has a different unit in every layer becomes comparable.

    A group of zeros stays one. Source: the default of Torch-Pruning (DepGraph, arXiv:2301.12900).
    """
    return {name: values / (values.mean() or 1.0) for name, values in scores.items()}


def check_scores(coupling: Coupling, scores: Scores) -> None:
    """Raises ModelError for scores that are not finite, below 0, of another number of channels or of no group."""
    groups = {group.name: group for group in coupling.groups}
    for name, values in scores.items():
        if name not in groups:
            raise ModelError(
                f"importance: expected scores of groups of this network, got some of {name!r}; compute them of it"
            )
        count = len(groups[name].channels)
        if values.shape != (count,):
            raise ModelError(
                f"importance: expected {count} scores of layer {name!r}, one for each channel, got "
                f"{values.shape}; compute them of this network"
            )
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(bad):
            raise ModelError(
                f"importance: expected finite scores of 0 or above of layer {name!r}, got {values[bad[0]]} at channel "
                f"{bad[0]}; look for NaN in its weights, its images or the loss, or choose another criterion"
            )
