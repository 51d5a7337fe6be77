"""Plots as inline SVG that takes its colours from the page: readable in light, in dark and on paper."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib writes hex colours; these stand for the page's CSS variables and are replaced by them afterwards.
INK, MUTED, ACCENT, FAIL = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", ACCENT: "var(--accent)", FAIL: "var(--fail)"}

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
}


def latency_histogram(
    samples_ms: Sequence[float],
    marks: Sequence[tuple[str, float]] = (),
    deadline_ms: float | None = None,
    identity: str = "latency",
) -> str:
    """A histogram of latencies with its percentiles and its deadline, as an `<svg>` element.

    Args:
        samples_ms: at least one latency.
        marks: (name, milliseconds) drawn as ticks on the histogram.
        deadline_ms: drawn as a line; where it is far to the right, an arrow says so instead of squeezing the rest.
        identity: unique on the page, because SVG ids are shared by all that is inlined.
    """
    # Only a report draws, and matplotlib takes a third of a second to import.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": identity}):
        figure = Figure(figsize=(10.4, 2.4), layout="constrained")
        axes = figure.subplots()
        low, high = _limits(samples_ms, deadline_ms)
        counts, edges = np.histogram(samples_ms, bins=72, range=(low, high))
        axes.stairs(counts, edges, fill=True, color=ACCENT, alpha=0.85)
        top = float(np.max(counts)) * 1.28
        _dress(axes, (low, high), top)
        _rug(axes, samples_ms, top)
        _mark(axes, marks, top)
        if deadline_ms is not None:
            _deadline(axes, deadline_ms, high, top)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def error_profile(own_db: Sequence[float | None], depth_db: Sequence[float | None]) -> str:
    """Signal to noise of every layer from the first to the last, as an `<svg>` element; at least one layer.

    Args:
        own_db: what each layer's own quantization leaves.
        depth_db: what is left there in the whole quantized network.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": "errors"}):
        figure = Figure(figsize=(10.4, 2.8), layout="constrained")
        axes = figure.subplots()
        x = np.arange(1, len(own_db) + 1)
        own, depth = (np.array([np.nan if v is None else v for v in values]) for values in (own_db, depth_db))
        axes.vlines(x, depth, own, color=MUTED, linewidth=0.6, alpha=0.6)
        axes.plot(x, own, "o", color=MUTED, markersize=3.2)
        axes.plot(x, depth, color=ACCENT, linewidth=1.6)
        for text, values, colour in (("alone", own, MUTED), ("whole network", depth, ACCENT)):
            axes.annotate(text, (x[-1], values[-1]), (6, 0), textcoords="offset points", color=colour, va="center")
        axes.set_xlabel("quantized layer, in the order of the network")
        axes.set_ylabel("signal to noise, dB")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def _limits(samples_ms: Sequence[float], deadline_ms: float | None) -> tuple[float, float]:
    low, high = min(samples_ms), max(samples_ms)
    if deadline_ms is not None and deadline_ms <= 3 * high:
        low, high = min(low, deadline_ms), max(high, deadline_ms)
    margin = max(0.04 * (high - low), 0.01 * high, 1e-6)
    return max(0.0, low - margin), high + margin


def _dress(axes: Axes, limits: tuple[float, float], top: float) -> None:
    axes.set_xlim(*limits)
    axes.set_ylim(-0.05 * top, top)
    axes.set_yticks([])
    axes.set_xlabel("milliseconds")


def _rug(axes: Axes, samples_ms: Sequence[float], top: float) -> None:
    """A tick for every sample below the axis: one slow run in a thousand is invisible as a bar."""
    gap = np.full(len(samples_ms), np.nan)  # NaN lifts the pen: one path for all ticks, not one element for each
    x = np.stack([samples_ms, samples_ms, gap], axis=1).ravel()
    y = np.tile([-0.05 * top, -0.012 * top, np.nan], len(samples_ms))
    axes.plot(x, y, color=ACCENT, linewidth=0.6, alpha=0.55)


def _mark(axes: Axes, marks: Sequence[tuple[str, float]], top: float) -> None:
    low, high = axes.get_xlim()
    level, last = 0.9, -np.inf
    for name, value in sorted(marks, key=lambda mark: mark[1]):
        # Percentiles that lie close together take turns in height, so that their names do not collide.
        level = 0.9 if level < 0.9 or value - last > 0.09 * (high - low) else 0.78
        last = value
        axes.plot([value, value], [0, level * top], color=INK, linewidth=0.8)
        axes.annotate(f"{name} {value:.2f}", (value, level * top), (3, -1), textcoords="offset points", va="top")


def _deadline(axes: Axes, deadline_ms: float, high: float, top: float) -> None:
    if deadline_ms <= high:
        axes.axvline(deadline_ms, color=FAIL, linewidth=1.4)
        side, align = (-4, "right") if deadline_ms > np.mean(axes.get_xlim()) else (4, "left")
        where, text = (deadline_ms, top), f"deadline {deadline_ms:g}"
    else:
        side, align, where, text = -2, "right", (high, top), f"deadline {deadline_ms:g} →"
    axes.annotate(text, where, (side, -1), textcoords="offset points", ha=align, va="top", color=FAIL)


def _inline(svg: str) -> str:
    """The `<svg>` element alone: the page's colours and font, no fixed size, no ids but the salted ones."""
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) 'DejaVu Sans'[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: ?'DejaVu Sans'[^;\"]*;? ?", "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", svg)
