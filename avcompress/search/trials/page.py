"""A search as one HTML page: every trial in a plot, what options bought, which layer is in which precision.

As the reports' page it needs no network, no scripts and no other file: what is pointed at is told by the browser's own
tips, and what is clicked is shown by its address.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avcompress.search.trials.choices import Options, texts_in
from avcompress.search.trials.effects import Effect, beside, effects
from avcompress.search.trials.halving import TRIALS
from avcompress.search.trials.process import OUT, RECIPE
from avcompress.search.trials.record import Record
from avcompress.search.trials.report import BEST, SearchReport
from avcompress.search.trials.space import Space
from avcompress.search.trials.tiers import TIERS
from validation.page import page_template
from validation.report import Report
from validation.report.layers import LayerFacts

PAGE = "index.html"
WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 20, 52


@dataclass(frozen=True)
class Dot:
    """A trial in the plot, in pixels of the drawing."""

    record: Record
    x: float
    y: float
    radius: float
    kind: str


@dataclass(frozen=True)
class Plot:
    """The plot; ticks as (pixel, label)."""

    dots: tuple[Dot, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    front: str


@dataclass(frozen=True)
class Row:
    """An effect in words."""

    choice: str
    of: str
    to: str
    effect: Effect


@dataclass(frozen=True)
class Trial:
    """What the page tells of a trial.

    Attributes:
        chosen: the options that it took, as (choice, option).
        recipe: the text of its recipe.
        report: None where the files are gone.
        folder: relative to the page.
    """

    record: Record
    chosen: tuple[tuple[str, str], ...]
    recipe: str
    report: Report | None
    folder: str

    @property
    def layers(self) -> tuple[LayerFacts, ...]:
        """The weighted layers, in the order of the graph."""
        return self.report.layers if self.report else ()

    @property
    def macs(self) -> int:
        """Of all of them."""
        return sum(layer.macs for layer in self.layers)

    @property
    def shares(self) -> dict[str, float]:
        """By precision, of the multiply-accumulates."""
        total: dict[str, float] = {}
        for layer in self.layers:
            total[layer.precision] = total.get(layer.precision, 0.0) + layer.macs / max(self.macs, 1)
        return dict(sorted(total.items(), key=lambda pair: -pair[1]))


def render(report: SearchReport, space: Space, out: Path) -> str:
    """The page of a search whose trials lie in `out`."""
    whole = [record for record in report.trials if record.share == 1 and record.status == "judged"]
    texts = texts_in(space.root)
    names = {choice.name for choice in space.choices if isinstance(choice, Options)}
    trials = [_trial(record, texts, names, out) for record in whole]
    return page_template("search.html.j2").render(
        report=report,
        best=report.best,
        plot=_plot(report, whole),
        beside=_rows(beside(report.best, whole), texts) if report.best else [],
        effects=_rows(effects(whole), texts),
        trials=trials,
        precisions=list(dict.fromkeys(precision for trial in trials for precision in trial.shares)),
        lost=[record for record in report.trials if record.status != "judged"],
        tiers=TIERS,
        best_file=BEST,
        size=(WIDTH, HEIGHT),
        edges=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
    )


def _trial(record: Record, texts: Mapping[str, Sequence[str]], names: set[str], out: Path) -> Trial:
    folder = f"{TRIALS}/{record.key[:16]}"
    chosen = tuple(
        (name, texts[name][int(value)] if name in names else f"{value:g}") for name, value in record.suggestion.items()
    )
    return Trial(record, chosen, _read(out / folder / RECIPE), _report(out / folder / OUT / "report.json"), folder)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _report(path: Path) -> Report | None:
    try:
        return Report.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _rows(found: Sequence[Effect], texts: Mapping[str, Sequence[str]]) -> list[Row]:
    def text(effect: Effect, value: float) -> str:
        options = texts.get(effect.choice)
        return options[int(value)] if options else f"{value:g}"

    return [Row(effect.choice, text(effect, effect.of), text(effect, effect.to), effect) for effect in found]


# --- the plot


def _plot(report: SearchReport, whole: Sequence[Record]) -> Plot | None:
    """Accuracy against latency, or against size where no latency was measured; None without two trials."""
    by_time = any(record.figures.latency_ms is not None for record in whole)
    known = list(_placed(whole, by_time))
    if len(known) < 2:
        return None
    x_ticks, y_ticks = _ticks([x for _, x, _ in known]), _ticks([y for _, _, y in known])
    x_of = _scale(x_ticks, LEFT, WIDTH - RIGHT)
    y_of = _scale(y_ticks, HEIGHT - BOTTOM, TOP)
    most = max((record.figures.size_bytes or 0 for record, _, _ in known), default=0)
    dots = tuple(Dot(record, x_of(x), y_of(y), _radius(record, most), _kind(report, record)) for record, x, y in known)
    return Plot(
        dots=tuple(sorted(dots, key=lambda dot: -dot.radius)),
        x_ticks=tuple((x_of(value), f"{value:g}") for value in x_ticks),
        y_ticks=tuple((y_of(value), f"{value:g}") for value in y_ticks),
        x_label="latency, ms" if by_time else "size, MB",
        front=" ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in _rising(dots)),
    )


def _rising(dots: Sequence[Dot]) -> Iterator[Dot]:
    """Those that nothing further left is above: the front of the two that are drawn, whatever the sizes are."""
    highest = float("inf")
    for dot in sorted(dots, key=lambda dot: (dot.x, dot.y)):
        if dot.y < highest:
            highest = dot.y
            yield dot


def _placed(whole: Sequence[Record], by_time: bool) -> Iterator[tuple[Record, float, float]]:
    for record in whole:
        figures = record.figures
        x = figures.latency_ms if by_time else None if figures.size_bytes is None else figures.size_bytes / 1e6
        if x is not None and figures.accuracy is not None:
            yield record, x, figures.accuracy


def _ticks(values: Sequence[float]) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return [round(float(value), 10) for value in MaxNLocator(6).tick_values(low - margin, high + margin)]


def _scale(ticks: Sequence[float], start: float, end: float) -> _Scale:
    return _Scale(ticks[0], (end - start) / (ticks[-1] - ticks[0]), start)


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    factor: float
    start: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) * self.factor, 1)


def _radius(record: Record, most: int) -> float:
    """Its area is as the size of the engine."""
    share = (record.figures.size_bytes or 0) / most if most else 1.0
    return round(max(4.0, 10.0 * math.sqrt(share)), 1)


def _kind(report: SearchReport, record: Record) -> str:
    kept = "kept" if record.met else "broken"
    mark = "best" if record.key == report.chosen else "front" if record.key in report.front else "other"
    return f"{kept} {mark}"
