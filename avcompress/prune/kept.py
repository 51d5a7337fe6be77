"""What is left of each tensor after a removal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avcompress.prune.groups import Coupling
from avcompress.prune.labels import expanded, varying

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Kept:
    """A removal, asked for by tensor.

    Attributes:
        coupling: of the network.
        gone: the atoms that are removed, as numbers of its labels.
    """

    coupling: Coupling
    gone: tuple[int, ...]

    def mask(self, tensor: str) -> Mask:
        """Which positions stay; broadcasts to the tensor, as its labels do."""
        labels = self.coupling.labels[tensor]
        return ~np.isin(labels, self.gone)

    def axis(self, tensor: str) -> int | None:
        """The axis along which positions are removed; None where all stay."""
        mask = self.mask(tensor)
        return None if mask.all() else varying(self.coupling.labels[tensor])[0]

    def along(self, tensor: str, axis: int) -> Mask | None:
        """Which positions stay along an axis, (size,); None where all do."""
        if self.axis(tensor) != axis:
            return None
        return expanded(self.mask(tensor), axis, self.coupling.shapes[tensor][axis]).reshape(-1)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The tensor's shape after the removal."""
        before, axis = self.coupling.shapes[tensor], self.axis(tensor)
        if axis is None:
            return before
        return (*before[:axis], int(self.mask(tensor).sum()), *before[axis + 1 :])
