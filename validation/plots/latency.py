"""Latencies: every image over time against the deadline, and how they are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from validation.plots.svg import ACCENT, FAIL, INK, LINE, MUTED, dots, draw, spread, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 900
DOTS = 2500
"""More images than this are drawn as the span of each of so many columns; late ones are always drawn each."""
_WIDE = 8.0
"""The slowest over the median from which the axis is logarithmic: one stall would flatten all that is usual."""
_MARKED = 0.66  # of the histogram's width; the rest is for the names of percentiles
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Timeline:
    """What is drawn of one scenario.

    Attributes:
        arrivals_s: when each image was due, or began, from the start.
        samples_ms: its latency; at least one.
        dropped_s: when the images were due that nobody processed.
        marks: (name, milliseconds) of the percentiles.
        deadlines_ms: the contract's.
    """

    arrivals_s: Sequence[float]
    samples_ms: Sequence[float]
    dropped_s: Sequence[float] = ()
    marks: Sequence[tuple[str, float]] = ()
    deadlines_ms: Sequence[float] = ()


def latency_plot(timeline: Timeline, identity: str = "latency") -> str:
    """Every image on its place in time, and the histogram on the same axis at the right, as an `<svg>` element.

    A deadline far above all images is pointed at instead of squeezing the rest.
    """

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.35))
        samples = np.asarray(timeline.samples_ms, np.float64)
        low, high = _limits(samples, timeline.deadlines_ms)
        scale = "log" if high / max(float(np.median(samples)), 1e-9) > _WIDE and low > 0 else "linear"
        left.set_yscale(scale)
        left.set_ylim(low, high)
        _images(left, timeline, samples)
        _histogram(right, samples)
        _deadlines(left, right, timeline.deadlines_ms)
        _names(right, timeline)
        _dress(left, right, scale)

    return draw(identity, 3.1, paint)


def _limits(samples: Floats, deadlines_ms: Sequence[float]) -> tuple[float, float]:
    low, high = float(samples.min()), float(samples.max())
    near = [deadline for deadline in deadlines_ms if deadline <= 3 * high]
    low, high = min([low, *near]), max([high, *near])
    margin = max(0.08 * (high - low), 0.01 * high, 1e-6)
    return max(0.0 if low - margin < 0 else low - margin, 0.6 * low), high + margin


def _images(axes: Axes, timeline: Timeline, samples: Floats) -> None:
    at = np.asarray(timeline.arrivals_s, np.float64)
    late = samples > min(timeline.deadlines_ms, default=np.inf)
    if len(samples) > DOTS:
        _columns(axes, at[~late], samples[~late])
    else:
        dots(axes, at[~late], samples[~late], ACCENT)
    dots(axes, at[late], samples[late], FAIL, 3.2)
    dropped = np.asarray(timeline.dropped_s, np.float64)
    if len(dropped):
        where = axes.get_xaxis_transform()
        gap = np.full(len(dropped), np.nan)
        x = np.stack([dropped, dropped, gap], axis=1).ravel()
        axes.plot(x, np.tile([0.955, 1.0, np.nan], len(dropped)), transform=where, color=FAIL, linewidth=0.9)
    last = max(float(at.max()), float(dropped.max()) if len(dropped) else 0.0)
    axes.set_xlim(-0.01 * last, 1.01 * last or 1.0)


def _columns(axes: Axes, at: Floats, samples: Floats) -> None:
    """The span of the images in each column of time: as an oscilloscope shows what is denser than its screen."""
    column = np.floor(at / (at.max() or 1.0) * (COLUMNS - 1)).astype(np.int64)
    low, high = np.full(COLUMNS, np.inf), np.full(COLUMNS, -np.inf)
    np.minimum.at(low, column, samples)
    np.maximum.at(high, column, samples)
    used = np.isfinite(low)
    x = (np.arange(COLUMNS) + 0.5) / COLUMNS * at.max()
    ticks(axes, x[used], (low[used], high[used] + 0.004 * (high.max() - low.min())), ACCENT, 1.0)


def _histogram(axes: Axes, samples: Floats) -> None:
    low, high = axes.get_ylim()
    edges = np.geomspace(low, high, 61) if axes.get_yscale() == "log" else np.linspace(low, high, 61)
    counts, _ = np.histogram(samples, bins=edges)
    axes.stairs(counts, edges, orientation="horizontal", fill=True, color=ACCENT, alpha=0.8)
    axes.set_xlim(0, 1.9 * max(1, int(counts.max())))


def _deadlines(left: Axes, right: Axes, deadlines_ms: Sequence[float]) -> None:
    for deadline in deadlines_ms:
        if deadline <= left.get_ylim()[1]:
            left.axhline(deadline, color=FAIL, linewidth=1.2)
            right.axhline(deadline, xmax=_MARKED, color=FAIL, linewidth=1.2)


def _names(axes: Axes, timeline: Timeline) -> None:
    """Names at the right edge, moved apart where their places lie close together, each with a line to its place."""
    _, high = axes.get_ylim()
    known = [(f"{name} {value:.2f}", value, INK) for name, value in timeline.marks]
    known += [
        (f"deadline {deadline:g}{' ↑' if deadline > high else ''}", min(deadline, high), FAIL)
        for deadline in timeline.deadlines_ms
    ]
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # the layout decides how many pixels a name has
    heights = [float(axes.transData.transform((0.0, value))[1]) for _, value, _ in known]
    back, edge = axes.transData.inverted().transform, axes.get_xlim()[1]
    end = (_MARKED + 0.06) * edge
    for (text, value, colour), height in zip(known, spread(heights, 17.0), strict=True):
        level = float(back((0.0, height))[1])
        start = 0.0 if colour == INK else _MARKED * edge
        if value < high:
            axes.plot([start, _MARKED * edge, end], [value, value, level], color=MUTED, linewidth=0.6, clip_on=False)
        axes.annotate(
            text, (end, level), (3, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False
        )


def _dress(left: Axes, right: Axes, scale: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if scale == "log":
        left.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)))
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        left.yaxis.set_minor_formatter(NullFormatter())
    else:
        left.yaxis.set_major_locator(MaxNLocator(5))
    left.tick_params(axis="y", which="both", length=0)
    left.grid(axis="y", color=LINE, linewidth=0.6)
    left.set_axisbelow(True)
    left.set_ylabel("milliseconds")
    left.set_xlabel("seconds since the first image")
    right.tick_params(axis="y", which="both", length=0, labelleft=False)
    right.set_xticks([])
    right.spines["bottom"].set_visible(False)
    right.spines["left"].set(visible=True, color=MUTED)
