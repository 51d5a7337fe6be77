"""Labels: which atom each position of a tensor belongs to, and which atoms go together.

An atom is one position that could be removed. A label array holds numbers of atoms and broadcasts to the shape of its
tensor: an axis along which the labels do not vary has size 1, (1, C, 1, 1) after a convolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Value = TypeVar("Value", bound=np.generic)

NONE = 0
"""The label of what can never be removed: the values of an image, say."""


class Atoms:
    """The atoms of one network, which of them go together, and why some have to stay."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self._reasons: dict[int, str] = {}
        self._ties: list[tuple[int, str]] = []
        self._followers: list[tuple[int, Labels]] = []

    def fresh(self, shape: tuple[int, ...]) -> Labels:
        """A new atom for each position."""
        start, count = len(self._parent), int(np.prod(shape, dtype=np.int64))
        added = np.arange(start, start + count)
        self._parent = np.concatenate([self._parent, added])
        return added.reshape(shape)

    def roots(self, labels: Labels) -> Labels:
        """The same labels, with one number for all atoms that go together."""
        found = self._parent[labels]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                self._parent[labels] = found  # the next search is shorter
                return found
            found = above

    def unite(self, a: Labels, b: Labels, by: str) -> bool:
        """Let the atoms of two arrays go together, position by position; those that meet NONE have to stay.

        `by`: what a message calls the operator that does. Returns whether any were apart before.
        """
        left, right = (v.ravel() for v in np.broadcast_arrays(a, b))
        alone = np.concatenate([left[right == NONE], right[left == NONE]])
        self.protect(alone, f"{by} joins them with values that have to stay")
        both = (left != NONE) & (right != NONE)
        left, right = left[both], right[both]
        changed = False
        while True:
            left, right = self.roots(left), self.roots(right)
            apart = left != right
            if not apart.any():
                return changed
            left, right, changed = left[apart], right[apart], True
            # Of several that want the same one under them, the smallest does; the others follow in the next round.
            np.minimum.at(self._parent, np.maximum(left, right), np.minimum(left, right))

    def protect(self, labels: Labels, why: str) -> None:
        """Let atoms stay; of several reasons the first counts."""
        for atom in np.unique(self.roots(labels.ravel())):
            if atom != NONE:
                self._reasons.setdefault(int(atom), why)

    def summary(self, labels: Labels) -> int:
        """A new atom for a value that is computed from all of these, a sum say: if it has to stay, they do."""
        atom = int(self.fresh(()))
        self._followers.append((atom, labels))
        return atom

    def reasons(self) -> dict[int, str]:
        """Why atoms have to stay, by their root; NONE is not among them."""
        found: dict[int, str] = {}
        for root, why in zip(self._roots_of(self._reasons), self._reasons.values(), strict=True):
            found.setdefault(root, why)
        for atom, labels in reversed(self._followers):  # the last first: a sum may be made of sums
            (root,) = self._roots_of([atom])
            if root in found:
                for part in set(self.roots(labels.ravel()).tolist()) - {NONE}:
                    found.setdefault(part, found[root])
        return found

    def _roots_of(self, atoms: Iterable[int]) -> list[int]:
        roots: list[int] = self.roots(np.array([*atoms], np.int64)).tolist()
        return roots

    def compact(self, labels: Labels) -> Labels:
        """The roots, with size 1 along every axis where they do not vary."""
        found = self.roots(labels)
        for axis, size in enumerate(found.shape):
            if size > 1:
                first = found.take([0], axis)
                if (found == first).all():
                    found = first
        return found

    def ties(self) -> dict[int, str]:
        """What tied positions of one tensor to each other, by the root of their atoms: the last operator that did."""
        return dict(zip(self._roots_of(atom for atom, _ in self._ties), (by for _, by in self._ties), strict=True))

    def uniform(self, labels: Labels, axes: Iterable[int], by: str) -> Labels:
        """Let the positions along some axes go together; the labels then, of size 1 there."""
        for axis in axes:
            if labels.shape[axis] > 1:
                first = labels.take([0], axis)
                if self.unite(labels, first, by):
                    self._ties.append((int(first.flat[0]), by))
                labels = first
        return self.compact(labels)

    def rectangular(self, labels: Labels, tensor: str) -> None:
        """Let a tensor stay a block, whatever operators ask for; as a cause of ties this counts less than they do."""
        before = len(self._ties)
        self.along_one_axis(labels, f"the shape of {tensor!r}")
        self._ties = self._ties[before:] + self._ties[:before]

    def along_one_axis(self, labels: Labels, by: str, axis: int | None = None) -> Labels:
        """Let positions go together until the labels vary along one axis at most: the given one, or what keeps most."""
        found = self.compact(labels)
        kept = best_axis(found) if axis is None else axis
        return self.uniform(found, [a for a in varying(found) if a != kept], by)


def varying(labels: Labels) -> tuple[int, ...]:
    """The axes along which a compact array varies."""
    return tuple(axis for axis, size in enumerate(labels.shape) if size > 1)


def units(labels: Labels, axis: int) -> int:
    """How many different positions along an axis would be left if those along all others went together."""
    others = tuple(a for a in range(labels.ndim) if a != axis)
    return len(np.unique(labels.min(others)))


def best_axis(labels: Labels) -> int | None:
    """The axis that keeps most units apart, of equal ones the last; None where nothing varies."""
    return max(varying(labels), key=lambda axis: (units(labels, axis), axis), default=None)


def expanded(values: NDArray[Value], axis: int, size: int) -> NDArray[Value]:
    """Labels, or what else broadcasts, at every position of an axis."""
    if values.shape[axis] == size:
        return values
    shape = list(values.shape)
    shape[axis] = size
    return np.broadcast_to(values, shape)
