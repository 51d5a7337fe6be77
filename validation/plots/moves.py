"""How scores moved between two networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from validation.plots.svg import ACCENT, INK, LOSS, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def moves_histogram(edges: Sequence[float], counts: Sequence[int], identity: str = "moves") -> str:
    """A histogram of changes of the score, with a line at no change, as an `<svg>` element.

    Args:
        edges: ascending, one more than counts.
        counts: of the changes between two edges.
        identity: unique on the page.
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        lower = np.asarray(edges[1:]) <= 0
        for mask, colour in ((lower, ACCENT), (~lower, LOSS)):
            axes.stairs(np.where(mask, counts, 0), edges, fill=True, color=colour)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks([])
        axes.set_ylim(0, 1.3 * max(1, *counts))  # room for the words
        axes.set_xlim(*_limits(edges, counts))
        axes.set_xlabel("change of the score of an object that both networks find")
        for text, at, side in (("← less sure", -4, "right"), ("surer →", 4, "left")):
            axes.annotate(
                text, (0, 1), (at, 0), xycoords=axes.get_xaxis_transform(), textcoords="offset points", ha=side,
                va="top",
            )  # fmt: skip

    return draw(identity, 1.7, paint)


def _limits(edges: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """From the first to the last bin that holds anything, with room for the words at no change."""
    used = np.flatnonzero(counts)
    low, high = (edges[used[0]], edges[used[-1] + 1]) if len(used) else (edges[0], edges[-1])
    room = 0.12 * (high - low)
    return min(low, -room), max(high, room)
