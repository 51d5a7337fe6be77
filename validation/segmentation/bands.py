"""Parts of an image that are judged alone: its thirds from left to right and from top to bottom."""

from __future__ import annotations

from typing import NamedTuple


class Band(NamedTuple):
    """A third of an image along one axis.

    Attributes:
        axis: 0 for rows, 1 for columns.
        third: 0, 1 or 2, from the top or the left.
    """

    axis: int
    third: int

    def window(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of an image of `shape` whose pixels are in the band; each pixel is in one of three."""
        length = shape[self.axis]
        # The pixels whose index i has floor(3 i / length) == third.
        inside = slice(-(-self.third * length // 3), -(-(self.third + 1) * length // 3))
        return (inside, slice(None)) if self.axis == 0 else (slice(None), inside)


BANDS = {
    "left": Band(1, 0),
    "center": Band(1, 1),
    "right": Band(1, 2),
    "top": Band(0, 0),
    "middle": Band(0, 1),
    "bottom": Band(0, 2),
}
"""By the name that slices give them."""
