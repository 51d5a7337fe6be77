"""Layers from the first to the last: signal to noise, time, precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from validation.plots.svg import ACCENT, FAIL, INK, LINE, LOSS, MUTED, dots, draw, short, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 3
LOW_PRECISION = {"int8", "fp8", "int8 weights", "int4 weights", "int8 dynamic"}
"""Drawn in the page's accent; everything wider is grey."""


@dataclass(frozen=True)
class LayerPoint:
    """One layer: `sqnr_db` is None where it is not known or infinite, `ms` is by engine."""

    name: str
    precision: str
    sqnr_db: float | None
    ms: Mapping[str, float]


def layer_profile(
    layers: Sequence[LayerPoint], bound_db: float | None, first_beyond: str | None, identity: str = "layers"
) -> str:
    """Signal to noise above, the time of each engine below, on the same layers, as an `<svg>` element.

    Args:
        layers: at least one, in the order of the network.
        bound_db: the least signal to noise that is allowed.
        first_beyond: the name of the first layer below it.
        identity: unique on the page.
    """
    engines = list(dict.fromkeys(engine for layer in layers for engine in layer.ms))
    noisy = any(layer.sqnr_db is not None for layer in layers)
    ratios = ([1.5] if noisy else []) + [1.0] * len(engines)

    def paint(figure: Figure) -> None:
        rows = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        if noisy:
            _noise(rows[0], layers, bound_db, first_beyond)
        for axes, engine in zip(rows[int(noisy) :], engines, strict=True):
            _times(axes, layers, engine)
        rows[-1].set_xlim(0, len(layers) + 1)
        rows[-1].set_xlabel("layer, in the order of the network")

    return draw(identity, 0.5 + 1.35 * sum(ratios), paint)


def error_profile(own_db: Sequence[float | None], depth_db: Sequence[float | None]) -> str:
    """Signal to noise of every layer from the first to the last, as an `<svg>` element; at least one layer.

    Args:
        own_db: what each layer's own quantization leaves.
        depth_db: what is left there in the whole quantized network.
    """

    def paint(figure: Figure) -> None:
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

    return draw("errors", 2.8, paint)


def _noise(axes: Axes, layers: Sequence[LayerPoint], bound_db: float | None, first_beyond: str | None) -> None:
    values = np.array([np.nan if layer.sqnr_db is None else layer.sqnr_db for layer in layers])
    x = np.arange(1, len(layers) + 1)
    axes.plot(x, values, color=LINE, linewidth=1.0)
    for mask, colour in _by_precision(layers):
        dots(axes, x[mask], values[mask], colour, 4.2)
    if bound_db is not None:
        axes.axhline(bound_db, color=FAIL, linewidth=1.2)
        axes.annotate(
            f"{bound_db:g} dB", (1, bound_db), (4, 0), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", va="center", color=FAIL, annotation_clip=False,
        )  # fmt: skip
        below = values < bound_db
        dots(axes, x[below], values[below], FAIL, 4.6)
    for index, layer in enumerate(layers):
        if layer.name == first_beyond:
            _first(axes, index + 1, len(layers), layer.name)
    axes.set_ylabel("signal to noise, dB")
    _grid(axes)


def _first(axes: Axes, position: int, count: int, name: str) -> None:
    axes.axvline(position, color=FAIL, linewidth=0.8, linestyle=(0, (3, 3)))
    left = position < 0.6 * count
    axes.annotate(
        f"first below: {short(name)}", (position, 1), (5 if left else -5, -2), xycoords=axes.get_xaxis_transform(),
        textcoords="offset points", ha="left" if left else "right", va="top", color=FAIL,
    )  # fmt: skip


def _times(axes: Axes, layers: Sequence[LayerPoint], engine: str) -> None:
    ms = np.array([layer.ms.get(engine, 0.0) for layer in layers])
    x = np.arange(1, len(layers) + 1)
    width = float(np.clip(560 / len(layers) * 0.72, 0.8, 12.0))  # points: the columns share the width of the plot
    for mask, colour in _by_precision(layers):
        ticks(axes, x[mask], (np.zeros(int(mask.sum())), ms[mask]), colour, width)
    top = float(ms.max()) * 1.25 or 1.0
    for index in _peaks(ms, len(layers)):
        right = index > 0.7 * len(layers)
        axes.annotate(
            short(layers[index].name), (index + 1, ms[index]), (-2 if right else 2, 2), textcoords="offset points",
            ha="right" if right else "left", color=INK,
        )  # fmt: skip
    axes.set_ylim(0, top)
    axes.set_ylabel(f"ms, {engine}")
    _grid(axes)


def _peaks(ms: NDArray[np.float64], count: int) -> list[int]:
    """The slowest layers whose names run neither into each other nor over other bars."""
    chosen: list[int] = []
    for index in np.argsort(-ms, kind="stable"):
        if len(chosen) == NAMED or ms[index] <= 0:
            break
        behind = (
            ms[index + 1 : index + 1 + _room(count)]
            if index <= 0.7 * count
            else ms[max(0, index - _room(count)) : index]
        )
        free = all(abs(int(index) - other) > _room(count) for other in chosen)
        if free and float(behind.max(initial=0.0)) < ms[index]:
            chosen.append(int(index))
    return chosen


def _room(count: int) -> int:
    """How many layers wide a name is, about."""
    return int(0.2 * count)


def _by_precision(layers: Sequence[LayerPoint]) -> list[tuple[NDArray[np.bool_], str]]:
    low = np.array([layer.precision in LOW_PRECISION for layer in layers])
    return [(~low, LOSS), (low, ACCENT)]


def _grid(axes: Axes) -> None:
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
