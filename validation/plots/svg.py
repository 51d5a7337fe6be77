"""matplotlib figures as inline SVG that takes its colours and its font from the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from avcompress.spec import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib writes hex colours; these stand for the page's CSS variables and are replaced by them afterwards.
INK, MUTED, ACCENT, FAIL, LOSS, LINE, PAPER = (f"#0{digit}0{digit}0{digit}" for digit in "1234567")
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    ACCENT: "var(--accent)",
    FAIL: "var(--fail)",
    LOSS: "var(--loss)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
}
WIDTH = 10.4  # inches: the page's text column
LONGEST = 36  # letters of a name
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
    "text.parse_math": False,  # a $ in a layer's name is a $
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.6,
    "path.simplify": False,  # it would drop the dots, which are lines of no length
}


def draw(identity: str, height: float, paint: Callable[[Figure], None]) -> str:
    """What `paint` puts on a figure of the page's width, as an `<svg>` element.

    Args:
        identity: unique on the page, because SVG ids are shared by all that is inlined.
        height: inches.
        paint: adds axes and fills them.
    """
    # Only a report draws, and matplotlib takes a third of a second to import.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": identity}), warnings.catch_warnings():
        # Names in any script: the page's font has what the one for measuring has not.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def dots(axes: Axes, x: Array, y: Array, colour: str, size: float = 2.6) -> None:
    """Points as one path of round-capped lines of no length: a thousand elements would make the page heavy."""
    _strokes(axes, x, (y, y), {"color": colour, "linewidth": size, "solid_capstyle": "round"})


def ticks(axes: Axes, x: Array, ends: tuple[Array, Array], colour: str, width: float = 0.6) -> None:
    """Vertical lines from the low to the high ends, as one path."""
    _strokes(axes, x, ends, {"color": colour, "linewidth": width, "solid_capstyle": "butt"})


def _strokes(axes: Axes, x: Array, ends: tuple[Array, Array], style: dict[str, Any]) -> None:
    gap = np.full(len(x), np.nan)  # NaN lifts the pen
    across, up = (np.stack([*pair, gap], axis=1).ravel() for pair in ((x, x), ends))
    if len(x):
        axes.plot(across, up, **style)


def short(name: str) -> str:
    """The end of a name that is too long to be written beside its place."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def spread(values: list[float], gap: float) -> list[float]:
    """Positions for labels near the values, in ascending order, no two closer than the gap."""
    order = np.argsort(values, kind="stable")
    placed = np.sort(np.asarray(values, np.float64))
    for _ in range(len(placed) * 8):
        close = np.flatnonzero(np.diff(placed) < gap * 0.999)
        if not len(close):
            break
        for index in close:
            middle = placed[index : index + 2].mean()
            placed[index : index + 2] = middle - gap / 2, middle + gap / 2
    found = np.empty(len(placed))
    found[order] = placed
    return [float(value) for value in found]


def _inline(svg: str) -> str:
    """The `<svg>` element alone: the page's colours and font, no fixed size, short numbers, no ids but salted ones."""
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) 'DejaVu Sans'[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: ?'DejaVu Sans'[^;\"]*;? ?", "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), svg)
    return re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", svg)
