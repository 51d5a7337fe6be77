"""Which channels of a network go together: what pruning may remove, and what it may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from avcompress.spec import Array

Removed = Mapping[str, tuple[int, ...]]
"""What to remove: by a group's name, indices into its channels."""


@dataclass(frozen=True)
class Place:
    """Positions along one axis of an initializer."""

    tensor: str
    axis: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Channel:
    """What is removed together, or not at all."""

    places: tuple[Place, ...]


@dataclass(frozen=True)
class Group:
    """Channels that are interchangeable: they lie in the same tensors, along the same axes. At least one stays.

    Attributes:
        name: the node name of the first layer that produces them; with `#2`, `#3` ... where that layer produces
            several groups, as before a split.
        producers: node names of the weighted layers whose outputs they are; a depthwise convolution is a reader, too.
        readers: node names of the weighted layers whose inputs they are.
        channels: two or more.
        inexact: node names of the operators that see fewer channels after a removal and so give other numbers than on
            channels of zeros: a layer normalization, a mean over channels. Empty where removal equals masking.
    """

    name: str
    producers: tuple[str, ...]
    readers: tuple[str, ...]
    channels: tuple[Channel, ...]
    inexact: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fixed:
    """A weighted layer none of whose output channels can be removed, and why."""

    layer: str
    reason: str


@dataclass(frozen=True, eq=False)
class Coupling:
    """What channel_groups found in a network.

    Attributes:
        groups: in the order in which the network computes them.
        fixed: the weighted layers that no group covers.
        shapes: of every tensor that is computed, and of the inputs.
        labels: of the same tensors, whose positions go together: an array that broadcasts to the tensor's shape and
            varies along one axis at most. Positions with a number in `atoms` can be removed, no others.
        atoms: by a group's name, the number in `labels` of each of its channels.
    """

    groups: tuple[Group, ...]
    fixed: tuple[Fixed, ...]
    shapes: Mapping[str, tuple[int, ...]]
    labels: Mapping[str, Array]
    atoms: Mapping[str, tuple[int, ...]]


def channel_groups(network: onnx.ModelProto) -> Coupling:
    """Find the channels of a network that can be removed, and those that go together.

    Args:
        network: float, static shapes; not changed.

    Raises ModelError for a network that import_onnx does not take.
    """
    raise NotImplementedError
