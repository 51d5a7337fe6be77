"""A network before and after it was made smaller, from the first layer to the last: widths, times, importance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from avcompress.spec import Array
from validation.plots.svg import ACCENT, INK, LINE, LOSS, MUTED, PAPER, draw, short, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 3
TELLING = 0.2
"""Of the largest change: what is less is not worth a name."""
SHOWN_GROUPS = 40


@dataclass(frozen=True)
class Pair:
    """One layer: a figure before and after."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Ranked:
    """Channels that go together: their importance, falling, and the share of them that is kept."""

    name: str
    scores: tuple[float, ...]
    kept: float


def pairs_plot(panels: Sequence[tuple[str, Sequence[Pair]]], identity: str) -> str:
    """What each layer had and has, one panel below the other on the same layers, as an `<svg>` element.

    Args:
        panels: what the figures are, and one for each layer in the order of the network; all of one length, not empty.
        identity: unique on the page.
    """

    def paint(figure: Figure) -> None:
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, pairs) in zip(rows, panels, strict=True):
            _pairs(axes, label, pairs)
        rows[-1].set_xlim(0, len(panels[0][1]) + 1)
        rows[-1].set_xlabel("layer, in the order of the network")

    return draw(identity, 0.4 + 1.7 * len(panels), paint)


def _pairs(axes: Axes, label: str, pairs: Sequence[Pair]) -> None:
    before, after = (np.array([getattr(pair, side) for pair in pairs]) for side in ("before", "after"))
    x, low = np.arange(1, len(pairs) + 1, dtype=np.float64), np.zeros(len(pairs))
    width = float(np.clip(560 / len(pairs) * 0.72, 0.8, 16.0))  # points: the columns share the width of the plot
    ticks(axes, x, (low, before), LINE, width)
    ticks(axes, x, (low, np.minimum(before, after)), ACCENT, width)
    ticks(axes, x, (before, np.maximum(before, after)), LOSS, width)
    top = float(np.maximum(before, after).max()) * 1.25 or 1.0
    for index in _largest(before - after, np.maximum(before, after)):
        right = index > 0.7 * len(pairs)
        axes.annotate(
            short(pairs[index].name), (index + 1, before[index]), (-2 if right else 2, 2),
            textcoords="offset points", ha="right" if right else "left", color=INK,
        )  # fmt: skip
    axes.set_ylim(0, top)
    axes.set_ylabel(label)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def _largest(gains: Array, heights: Array) -> list[int]:
    """The layers that changed most, whose names run neither into each other nor over other bars."""
    chosen: list[int] = []
    least = TELLING * float(gains.max())
    count, room = len(gains), int(0.22 * len(gains))
    for index in map(int, np.argsort(-gains, kind="stable")):
        if len(chosen) == NAMED or gains[index] <= max(least, 0.0):
            break
        right = index > 0.7 * count
        behind = heights[max(0, index - room) : index] if right else heights[index + 1 : index + 1 + room]
        if all(abs(index - other) > room for other in chosen) and behind.max(initial=0.0) < heights[index]:
            chosen.append(index)
    return chosen


def importance_plot(groups: Sequence[Ranked], identity: str) -> str:
    """The channels of each group by importance, those that are gone behind the cut, as an `<svg>` element.

    Args:
        groups: at least one, in the order of the network; of many, SHOWN_GROUPS evenly spread.
        identity: unique on the page.
    """
    places = np.linspace(0, len(groups) - 1, min(len(groups), SHOWN_GROUPS)).round().astype(int)
    shown = [groups[place] for place in places]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, group in enumerate(shown):
            _strip(axes, row, group)
        axes.set_yticks(range(len(shown)), [short(group.name) for group in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["most important", "25 %", "50 %", "75 %", "least"])
        axes.tick_params(axis="y", colors=INK)

    return draw(identity, 0.6 + 0.24 * len(shown), paint)


def _strip(axes: Axes, row: int, group: Ranked) -> None:
    """One group as a curve that falls from its most important channel on, filled as far as channels are kept."""
    scores = np.asarray(group.scores, np.float64)
    heights = scores / (scores.max() or 1.0)
    edges = np.linspace(0, 1, len(heights) + 1)
    x = np.repeat(edges, 2)[1:-1]
    top = row + 0.4 - 0.8 * np.repeat(heights, 2)
    base = np.full(len(x), row + 0.4)
    axes.fill_between(x, base, top, where=x <= group.kept + 1e-9, color=ACCENT, linewidth=0)
    axes.fill_between(x, base, top, where=x >= group.kept - 1e-9, color=LINE, linewidth=0)
    if group.kept < 1:
        axes.plot([group.kept, group.kept], [row - 0.45, row + 0.45], color=MUTED, linewidth=1.0)
        paper = {"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.7}
        axes.annotate(
            f"{100 * group.kept:.0f} %", (group.kept, row), (3, 0), textcoords="offset points", va="center",
            color=MUTED, fontsize=8, bbox=paper,
        )  # fmt: skip
