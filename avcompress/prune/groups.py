"""Which channels of a network go together: what pruning may remove, and what it may not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from avcompress.onnx_import.operand import OnnxNode
from avcompress.prune.labelling import labelled
from avcompress.prune.labels import NONE, Labels, varying
from avcompress.prune.rules import Labelling
from avcompress.spec import WEIGHTED, Array

_LAYERS = WEIGHTED | {"Einsum"}

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
        readers: node names of the weighted layers whose inputs they are; products of two activations count, too.
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
    found = labelled(network)
    tensors = {name: found.known.atoms.compact(labels) for name, labels in found.known.tensors.items()}
    members = _members(found.known, tensors)
    reasons, ties = found.known.atoms.reasons(), found.known.atoms.ties()
    layers = [node for node in found.nodes if node.proto.op_type in _LAYERS]
    groups, atoms = _groups(members, reasons, layers, found.known)
    tied = {atom: f"they all go together because of {by}" for atom, by in ties.items()}
    free = {atom for numbers in atoms.values() for atom in numbers}
    fixed = tuple(
        Fixed(node.proto.name, _reason(node, tensors[output], {**tied, **reasons}, found.shapes[output]))
        for node in layers
        for output in node.proto.output
        if _has_weight(node) and free.isdisjoint(tensors[output].ravel().tolist())
    )
    return Coupling(groups, fixed, found.shapes, tensors, atoms)


@dataclass(eq=False)
class _Member:
    """Where one atom lies: its share of tensors, which makes it interchangeable with others, and its places."""

    lies_in: list[tuple[str, int | None, int]] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)


def _members(known: Labelling, tensors: Mapping[str, Labels]) -> dict[int, _Member]:
    """All atoms by number, in the order in which the network computes them."""
    members: dict[int, _Member] = {}
    for name, labels in tensors.items():
        axis = next(iter(varying(labels)), None)
        for atom, positions in _positions(labels):
            members.setdefault(atom, _Member()).lies_in.append((name, axis, len(positions)))
    for (name, given), labels in known.constants.items():
        found = known.atoms.compact(labels) if given is None else known.atoms.roots(labels)
        axis = next(iter(varying(found)), 0) if given is None else given
        for atom, positions in _positions(found):
            member = members.setdefault(atom, _Member())
            member.lies_in.append((name, axis, len(positions)))
            member.places.append(Place(name, axis, positions))
    members.pop(NONE, None)
    return members


def _positions(labels: Labels) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The atoms of an array that varies along one axis at most, by their first positions."""
    found: dict[int, list[int]] = {}
    for position, atom in enumerate(labels.ravel().tolist()):
        found.setdefault(atom, []).append(position)
    return ((atom, tuple(positions)) for atom, positions in found.items())


def _groups(
    members: Mapping[int, _Member], reasons: Mapping[int, str], layers: Sequence[OnnxNode], known: Labelling
) -> tuple[tuple[Group, ...], dict[str, tuple[int, ...]]]:
    """Atoms that lie in the same tensors together, where two or more of them may go."""
    alike: dict[tuple[tuple[str, int | None, int], ...], list[int]] = {}
    for atom, member in members.items():
        if atom not in reasons:
            alike.setdefault(tuple(member.lies_in), []).append(atom)
    seen = [(name, set(known.atoms.roots(labels).ravel().tolist())) for name, labels in known.inexact]
    groups: list[Group] = []
    atoms: dict[str, tuple[int, ...]] = {}
    for signature, numbers in alike.items():
        tensors = {name for name, _, _ in signature}
        producers = tuple(node.proto.name for node in layers if node.proto.output[0] in tensors)
        readers = tuple(node.proto.name for node in layers if tensors.intersection(_computed(node)))
        if len(numbers) > 1 and producers:
            channels = tuple(Channel(tuple(members[atom].places)) for atom in numbers)
            inexact = tuple(dict.fromkeys(name for name, found in seen if not found.isdisjoint(numbers)))
            name = _unique(producers[0], atoms)
            groups.append(Group(name, producers, readers, channels, inexact))
            atoms[name] = tuple(numbers)
    return tuple(groups), atoms


def _has_weight(node: OnnxNode) -> bool:
    """Whether it is no product of activations, one of them computed from learned queries perhaps."""
    left, right = node.x, node.required(1)
    return right.value is not None or (left.value is not None and left.rank <= 2)


def _computed(node: OnnxNode) -> tuple[str, ...]:
    return tuple(operand.name for operand in node.inputs[:2] if operand is not None and operand.value is None)


def _unique(name: str, taken: Mapping[str, object]) -> str:
    count = 1
    while (name if count == 1 else f"{name}#{count}") in taken:
        count += 1
    return name if count == 1 else f"{name}#{count}"


def _reason(node: OnnxNode, labels: Labels, reasons: Mapping[int, str], shape: tuple[int, ...]) -> str:
    count = shape[1] if node.kind in {"Conv", "ConvTranspose"} else shape[-1]
    if count == 1:
        return "there is only one"
    why = next((reasons[atom] for atom in np.unique(labels).tolist() if atom in reasons), None)
    return why or "they all go together"
