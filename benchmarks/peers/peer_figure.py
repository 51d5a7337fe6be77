"""The plot: accuracy lost against time, and against peak memory, one line of two panels a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.peer_rows import FLOAT, Comparison, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, each with a marker of its own: readable by all, and in grey.
STYLES = {
    "ours": ("#D55E00", "o"),
    "onnxruntime": ("#0072B2", "s"),
    "modelopt": ("#009E73", "^"),
    "nncf": ("#CC79A7", "D"),
}
NAMES = {"ours": "ours", "onnxruntime": "ONNX Runtime", "modelopt": "NVIDIA ModelOpt", "nncf": "NNCF"}
LINE = 20
"""Pixels from one line of text to the next."""
LEAST = 0.02
"""Points lost: what is below is drawn here, since the axis is logarithmic."""
RC: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.hashsalt": "ptq_vs_peers",
}


def draw(comparisons: Sequence[Comparison], path: Path) -> bool:
    """Write the plot as PNG; False where no recipe has both a float network and a quantized one."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    usable = [comparison for comparison in comparisons if points(comparison)]
    if not usable:
        return False
    with mpl.rc_context(RC):
        figure = Figure(figsize=(11, 0.8 + 3.9 * len(usable)), layout="constrained", dpi=130)
        panels = figure.subplots(len(usable), 2, squeeze=False, sharey="row")
        for (left, right), comparison in zip(panels, usable, strict=True):
            panel(left, comparison, "seconds", "quantization, seconds (imports and reading images included)")
            panel(right, comparison, "peak_mb", "peak memory, MB")
            left.set_ylabel(f"{comparison.metrics[0]} lost against FP32, points\n(logarithmic; higher is better)")
            left.set_title(comparison.recipe, loc="left", fontweight="bold")
        figure.legend(handles=legend(usable), loc="outside upper center", ncols=8, frameon=False)
        figure.draw_without_rendering()  # names are placed by pixels: the layout must be there
        for (left, right), comparison in zip(panels, usable, strict=True):
            annotate(left, comparison, "seconds")
            annotate(right, comparison, "peak_mb")
        figure.savefig(path)
    return True


def points(comparison: Comparison) -> list[tuple[Row, float]]:
    """The quantized rows, each with the points of accuracy that it lost."""
    metric, plain = comparison.metrics[0], comparison.float_row()
    if plain is None or metric not in plain.judged.get("accuracy", {}):
        return []
    whole = plain.judged["accuracy"][metric]
    return [
        (row, max(LEAST, 100 * (whole - row.judged["accuracy"][metric])))
        for row in comparison.rows
        if row.name != FLOAT and row.cost and metric in row.judged.get("accuracy", {})
    ]


def panel(axes: "Axes", comparison: Comparison, cost: str, label: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    found = points(comparison)
    plain = comparison.float_row()
    axes.set_xscale("log")
    axes.set_yscale("log")
    xs = [getattr(row.cost, cost) for row, _ in found]
    ys = [lost for _, lost in found]
    for x, (row, lost) in zip(xs, found, strict=True):
        colour, marker = STYLES[tool(row)]
        face = colour if row.judged.get("rtx") == "accepted" else "white"
        axes.plot([x], [lost], marker=marker, color=colour, markerfacecolor=face, markersize=8, markeredgewidth=1.6)
    if plain and plain.cost:
        axes.axvline(getattr(plain.cost, cost), color="#555555", linewidth=0.9, linestyle=(0, (4, 3)))
        xs = [*xs, getattr(plain.cost, cost)]
    axes.set_xlim(min(xs) / 1.3, max(xs) * 3.2)
    axes.set_ylim(max(ys) * 1.9, min(ys) / 1.9)  # turned round: what loses least is on top
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def annotate(axes: "Axes", comparison: Comparison, cost: str) -> None:
    """Write each point's setting and accuracy to its right, off its height where another point or name is there."""
    to_pixels = axes.transData.transform
    points_a_pixel = 72 / axes.figure.dpi
    found = [(row, *to_pixels((getattr(row.cost, cost), lost)), lost) for row, lost in points(comparison)]
    taken = [(x - 10, x + 10, y) for _, x, y, _ in found]
    for row, x, y, lost in sorted(found, key=lambda item: (-item[2], item[1])):
        accuracy = f"{row.judged['accuracy'][comparison.metrics[0]]:.4f}"
        text = f"{setting(row)} {accuracy.removeprefix('0')}"
        left, right = x + 8 / points_a_pixel, x + (12 + 4.3 * len(text)) / points_a_pixel
        level = y + free_shift(left, right, y, taken)
        taken.append((left, right, level))
        shift = ((left - x) * points_a_pixel, (level - y) * points_a_pixel)
        place = (getattr(row.cost, cost), lost)
        axes.annotate(text, place, shift, textcoords="offset points", va="center", fontsize=8)


def free_shift(left: float, right: float, y: float, taken: Sequence[tuple[float, float, float]]) -> float:
    """The least shift in pixels that takes a text at `y`, from `left` to `right`, clear of others: (left, right, y)."""
    beside = [other_y for start, end, other_y in taken if left < end and start < right]
    shifts = (sign * step for step in range(0, 400, 2) for sign in (1, -1))
    return next((shift for shift in shifts if all(abs(y + shift - other) >= LINE for other in beside)), 0.0)


def tool(row: Row) -> str:
    return row.name.partition("-")[0]


def setting(row: Row) -> str:
    return row.name.partition("-")[2].replace("-", " ")


def legend(comparisons: Sequence[Comparison]) -> list[Any]:
    from matplotlib.lines import Line2D

    present = [tool(row) for comparison in comparisons for row, _ in points(comparison)]
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=8, label=NAMES[name])
        for name, (colour, marker) in STYLES.items()
        if name in present
    ]
    hollow: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 8, "color": "#555555"}
    return [
        *handles,
        Line2D([], [], **hollow, label="TensorRT-RTX takes it"),
        Line2D([], [], **hollow, markerfacecolor="white", label="refuses it, or computes it otherwise"),
        Line2D([], [], color="#555555", linewidth=0.9, linestyle=(0, (4, 3)), label="one FP32 pass"),
    ]
