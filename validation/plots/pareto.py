"""Several candidates: accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from validation.plots.svg import ACCENT, FAIL, INK, LINE, LOSS, MUTED, dots, draw, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """One candidate; `named` has its name written beside it."""

    name: str
    latency_ms: float
    accuracy: float
    on_front: bool
    chosen: bool


def pareto_plot(
    points: Sequence[Point], metric: str, deadline_ms: float | None, least: float | None, identity: str = "pareto"
) -> str:
    """Latency to the right, accuracy up, the front as a line, the chosen one ringed, as an `<svg>` element.

    Args:
        points: at least one.
        metric: what accuracy is.
        deadline_ms: the contract's latest.
        least: the contract's least accuracy.
        identity: unique on the page.
    """
    from matplotlib.ticker import MaxNLocator

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        front = sorted((point for point in points if point.on_front), key=lambda point: point.latency_ms)
        axes.step(
            [point.latency_ms for point in front], [point.accuracy for point in front], where="post", color=ACCENT,
            linewidth=1.2,
        )  # fmt: skip
        for on_front, colour in ((False, LOSS), (True, ACCENT)):
            shown = [point for point in points if point.on_front == on_front]
            x, y = (np.array([getattr(p, name) for p in shown]) for name in ("latency_ms", "accuracy"))
            dots(axes, x, y, colour, 7.0)
        for point in points:
            if point.chosen:
                axes.plot(
                    point.latency_ms, point.accuracy, "o", markersize=13, markerfacecolor="none",
                    markeredgecolor=INK, markeredgewidth=1.2,
                )  # fmt: skip
            colour = INK if point.chosen else ACCENT if point.on_front else MUTED
            axes.annotate(
                short(point.name), (point.latency_ms, point.accuracy), (9, 9 if point.chosen else -9),
                textcoords="offset points", color=colour, va="center",
            )  # fmt: skip
        for place, value in ((axes.axvline, deadline_ms), (axes.axhline, least)):
            if value is not None:
                place(value, color=FAIL, linewidth=1.2)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.margins(x=0.12, y=0.14)
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.set_xlabel("milliseconds")
        axes.set_ylabel(metric)

    return draw(identity, 3.4, paint)
