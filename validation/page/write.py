"""How the page writes figures for people."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable

from validation.report import Interval, LayerCounts, Range

MISSING = "n/a"
NO_UNITS_BELOW = 1024


def metric(value: float | None) -> str:
    """A figure of 0-1."""
    return MISSING if value is None else _signed(value, lambda size: f"{size:.4f}", plus="")


def change(value: float | None) -> str:
    """A signed difference of figures of 0-1, with a true minus."""
    return MISSING if value is None else _signed(value, lambda size: f"{size:.4f}")


def ends(interval: Interval | None, shown: Callable[[float | None], str] | None = None) -> str:
    """The ends of an interval in brackets, three decimals unless told; empty where there are none."""
    if interval is None or (interval.low is None and interval.high is None):
        return ""
    writer = shown or (lambda value: "…" if value is None else _signed(value, lambda size: f"{size:.3f}", plus=""))
    return f"[{writer(interval.low)},\u00a0{writer(interval.high)}]"


def ms(value: float | None) -> str:
    """Milliseconds, three significant digits or whole microseconds' tenth."""
    if value is None:
        return MISSING
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def share(value: float | None) -> str:
    """A share of 0-1 in per cent."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def rate(value: float | None) -> str:
    """A small share of 0-1 in per cent, two significant digits: a rate of misses is no use as 0.0 %."""
    if value is None:
        return MISSING
    percent = 100 * value
    decimals = 0 if percent in {0.0, 100.0} else max(1, 1 - math.floor(math.log10(percent)))
    return f"{percent:.{decimals}f} %"


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return MISSING if value is None else f"{value:,.0f}".replace(",", "\u2009")


def amount(value: float | None) -> str:
    """A whole number, in millions from one million on."""
    return count(value) if value is None or value < 1e6 else f"{value / 1e6:.1f}\u2009M"


def decibels(value: float | None) -> str:
    """A ratio in dB."""
    return MISSING if value is None else f"{value:.1f}"


def times(value: float | None) -> str:
    """A factor, in two decimals."""
    return MISSING if value is None else f"{value:.2f}"


def span(value: Range, unit: str) -> str:
    """The least and the most, or the one figure that both are."""
    low, high = count(value.low), count(value.high)
    return f"{low} {unit}" if low == high else f"{low}–{high} {unit}"


def size(value: int | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return MISSING
    scaled, unit = float(value), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if scaled < NO_UNITS_BELOW:
            break
        scaled, unit = scaled / 1024, larger
    return f"{scaled:.0f} {unit}" if unit == "B" else f"{scaled:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and seconds."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def layer_line(counts: LayerCounts) -> str:
    """An engine's layers in one line: what multiplies in which precision, what only converts."""
    products = ", ".join(f"{number} {precision}" for precision, number in counts.precisions.items()) or "none"
    parts = [
        f"layers that multiply: {products}",
        f"only quantize: {_with_size(counts.loose_qdq, counts.loose_qdq_bytes)}",
        f"only convert or copy: {_with_size(counts.conversions, counts.conversion_bytes)}",
        *([f"stand for several nodes: {counts.horizontal}"] if counts.horizontal else []),
        *([f"name no node: {counts.nameless}"] if counts.nameless else []),
    ]
    return "; ".join(parts)


def bare(unit: str) -> Callable[[float | None], str] | None:
    """What writes the ends of an interval of a unit, without the unit; None: as metrics are."""
    return {"": None, "ms": ms, "dB": decibels, "×": times}.get(unit, count)


def by_unit(unit: str) -> Callable[[float | None], str]:
    """What writes a contract's figures of a unit."""
    match unit:
        case "ms":
            return lambda value: MISSING if value is None else f"{ms(value)} ms"
        case "dB":
            return lambda value: MISSING if value is None else f"{decibels(value)} dB"
        case "×":
            return lambda value: MISSING if value is None else f"{times(value)} ×"
        case "":
            return metric
        case _:
            return count


def signed(value: float, shown: Callable[[float | None], str]) -> str:
    """A figure with its sign, in a unit's writing."""
    return _signed(value, shown)


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as a data URI of the media type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _with_size(layers: int, moved_bytes: int | None) -> str:
    return f"{layers} ({size(moved_bytes)} a run)" if layers and moved_bytes is not None else str(layers)


def _signed(value: float, shown: Callable[[float], str] | Callable[[float | None], str], plus: str = "+") -> str:
    text = shown(abs(value))
    zero = not any(digit in "123456789" for digit in text)
    sign = "" if zero else plus if value > 0 else "−"
    return sign + text
