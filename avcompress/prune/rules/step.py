"""What a rule sees: one node, the labels of its inputs, and the constants that it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from avcompress.onnx_import.operand import OnnxNode, Operand
from avcompress.prune.labels import NONE, Atoms, Labels, best_axis, units, varying

Rule = Callable[["Step"], tuple[Labels, ...]]
"""From a node to the labels of its outputs, which broadcast to their shapes."""


@dataclass(eq=False)
class Labelling:
    """What is known of a network so far.

    Attributes:
        atoms: which go together.
        tensors: the labels of what was computed.
        constants: the labels of initializers: of every position, or along one axis of a weight.
        inexact: operators that see fewer channels after a removal, each with the labels of those channels.
    """

    atoms: Atoms = field(default_factory=Atoms)
    tensors: dict[str, Labels] = field(default_factory=dict)
    constants: dict[tuple[str, int | None], Labels] = field(default_factory=dict)
    inexact: list[tuple[str, Labels]] = field(default_factory=list)


class Part(NamedTuple):
    """An operand of something that broadcasts."""

    labels: Labels
    shape: tuple[int, ...]
    constant: bool = False

    @property
    def is_number(self) -> bool:
        """Whether it is a constant of one value."""
        return self.constant and math.prod(self.shape) == 1

    def aligned(self, rank: int) -> Part:
        """With dimensions of one in front."""
        ones = (1,) * (rank - len(self.shape))
        return Part(self.labels.reshape(ones + self.labels.shape), ones + self.shape, self.constant)


@dataclass(frozen=True, eq=False)
class Step:
    """One node of the network; `shapes` are those of all tensors that are computed."""

    node: OnnxNode
    known: Labelling
    shapes: Mapping[str, tuple[int, ...]]

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of an output."""
        return self.shapes[self.node.proto.output[index]]

    @property
    def atoms(self) -> Atoms:
        """All atoms of the network."""
        return self.known.atoms

    @property
    def name(self) -> str:
        """What a message calls the node."""
        return f"{self.node.kind} {self.node.proto.name!r}"

    def labels(self, index: int) -> Labels:
        """The labels of an input, compact."""
        return self.part(index).labels

    def part(self, index: int) -> Part:
        """An input as an operand; a constant has atoms of its own at every position, whoever reads it."""
        return self.part_of(self.node.required(index))

    def part_of(self, operand: Operand) -> Part:
        """An operand with its labels."""
        if operand.value is None:
            return Part(self.atoms.compact(self.known.tensors[operand.name]), operand.shape)
        key = (operand.name, None)
        if key not in self.known.constants:
            self.known.constants[key] = self.atoms.fresh(operand.shape)
        return Part(self.atoms.compact(self.known.constants[key]), operand.shape, constant=True)

    def along(self, operand: Operand, axis: int) -> Labels:
        """The labels along one axis of a weight, (size,); the same for all that read it."""
        key = (operand.name, axis)
        if key not in self.known.constants:
            self.known.constants[key] = self.atoms.fresh((operand.shape[axis],))
        return self.known.constants[key]

    def aside(self, labels: Labels, axes: Iterable[int]) -> Labels:
        """Let positions along some axes go together where channels lie along others; as they are where none do."""
        axes = tuple(axes)
        return self.atoms.uniform(labels, axes, self.name) if set(varying(labels)) - {*axes} else labels

    def sees_fewer(self, labels: Labels) -> None:
        """Note that removing some of these channels changes more than masking them."""
        self.known.inexact.append((self.node.proto.name, labels))

    def stays(self, why: str, *labels: Labels) -> None:
        """Let channels stay; `why` follows the name of this node."""
        for array in labels:
            self.atoms.protect(array, f"{self.name} {why}")

    def join(self, parts: Sequence[Part]) -> Labels:
        """The labels of values that are combined position by position under broadcasting."""
        rank = max(len(part.shape) for part in parts)
        # A number for all values, as 2.0 is, ties nothing, however many read it.
        parts = [part.aligned(rank) for part in parts if not part.is_number] or [parts[0].aligned(rank)]
        shape = np.broadcast_shapes(*(part.shape for part in parts))
        axes = {axis for part in parts if not part.constant for axis in varying(part.labels)}
        if any(_is_partial(part, shape, axes) for part in parts):
            axes = {_main_axis(parts)}
        tied = [part for part in parts if _fits(part, shape, axes)]
        for part in parts:
            if not _fits(part, shape, axes) and varying(part.labels):
                self.stays("spreads them over other channels", part.labels)
        arrays = [self._along_only(part, shape, axes) for part in tied]
        for array in arrays[1:]:
            self.atoms.unite(arrays[0], array, self.name)
        return self.atoms.compact(np.broadcast_arrays(*arrays)[0]) if arrays else none(rank)

    def _along_only(self, part: Part, shape: tuple[int, ...], axes: set[int]) -> Labels:
        """The labels of a part, that may not vary where it is broadcast or where no channels are."""
        others = [axis for axis in range(len(shape)) if axis not in axes]
        return self.atoms.uniform(part.labels, others, self.name)


def none(rank: int) -> Labels:
    """The labels of values that have no channels to remove."""
    return np.full((1,) * rank, NONE)


def _is_partial(part: Part, shape: tuple[int, ...], axes: set[int]) -> bool:
    """Whether a part has a size of its own along some of the axes and is broadcast along others."""
    own = {axis for axis in axes if part.shape[axis] == shape[axis] != 1}
    return bool(own) and own != axes


def _fits(part: Part, shape: tuple[int, ...], axes: set[int]) -> bool:
    """Whether a part has a value of its own for each channel."""
    return all(part.shape[axis] == shape[axis] for axis in axes)


def _main_axis(parts: Sequence[Part]) -> int:
    """The axis that keeps most channels apart in a part that is computed."""
    found = [(part.labels, best_axis(part.labels)) for part in parts if not part.constant]
    return max((units(labels, axis), axis) for labels, axis in found if axis is not None)[1]
