"""Intervals drawn beside figures: places on a scale of 0 to 100, which the page's style sheet draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from validation.report import Interval

_KEPT_ENDS = 0.9
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Bar:
    """One interval on a scale, in per cent of it; `cut_low`, `cut_high`: it goes on beyond the scale."""

    low: float
    value: float
    high: float
    cut_low: bool = False
    cut_high: bool = False
    proven: bool = False
    broken: bool = False


@dataclass(frozen=True)
class Scale:
    """Figures from low to high; `ticks` are (place in per cent, label), and `zero` is the place of 0."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    @property
    def zero(self) -> float:
        """The place of 0."""
        return self.place(0.0)

    def place(self, value: float) -> float:
        """Where a figure lies, 0 to 100."""
        return round(100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low))), 2)

    def bar(self, interval: Interval, broken: bool = False) -> Bar | None:
        """An interval of drops; None where nothing was measured. It is proven where it lies above 0."""
        if interval.value is None:
            return None
        low = interval.value if interval.low is None else interval.low
        high = interval.value if interval.high is None else interval.high
        return Bar(
            low=self.place(low),
            value=self.place(interval.value),
            high=self.place(high),
            cut_low=low < self.low,
            cut_high=high > self.high,
            proven=is_proven(interval),
            broken=broken,
        )


def is_proven(drop: Interval) -> bool:
    """Whether a drop has an interval, and all of it lies above 0."""
    return drop.low is not None and drop.low > 0


def forest_scale(drops: Iterable[Interval]) -> Scale | None:
    """A scale with 0 in it that shows all estimates, and most ends whole: a class of two objects must not squeeze all.

    None where nothing was measured.
    """
    known = [drop for drop in drops if drop.value is not None]
    if not known:
        return None
    sizes = sorted(abs(end) for drop in known for end in (drop.low, drop.high) if end is not None)
    usual = sizes[int(_KEPT_ENDS * (len(sizes) - 1))] if sizes else 0.0
    values = [drop.value for drop in known if drop.value is not None]
    lows = [max(end, -1.5 * usual) for drop in known if (end := drop.low) is not None]
    highs = [min(end, 1.5 * usual) for drop in known if (end := drop.high) is not None]
    low, high = min([0.0, *values, *lows]), max([0.0, *values, *highs])
    margin = 0.06 * (high - low) or 0.01
    return _with_ticks(low - margin, high + margin)


def _with_ticks(low: float, high: float) -> Scale:
    """The widest round steps that leave room for two labels or more: 0 alone says nothing of how large a drop is."""
    bare = Scale(low, high, ())
    ticks: tuple[tuple[float, str], ...] = ()
    for parts in (3, 4, 6, 8):
        step = _nice((high - low) / parts)
        decimals = max(0, -math.floor(math.log10(step)) + (1 if f"{step:e}".startswith("2.5") else 0))
        values = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
        ticks = tuple((bare.place(value), _label(value, decimals)) for value in _inside(values, bare))
        if len(ticks) > 1:
            break
    return Scale(low, high, ticks)


def _inside(values: Sequence[float], scale: Scale) -> list[float]:
    """Those whose labels have room."""
    return [value for value in values if 7 <= scale.place(value) <= 93 or value == 0]


def _nice(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(each * power for each in _STEPS if each * power >= step * 0.999)


def _label(value: float, decimals: int) -> str:
    sign = "−" if value < 0 else "+" if value > 0 else ""
    return f"{sign}{abs(value):.{decimals}f}" if value else "0"
