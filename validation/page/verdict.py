"""The top of the page: the verdict, why it is what it is, key figures, and the contract line by line."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from validation.page.accuracy import drop_of, main_metric
from validation.page.causes import cause
from validation.page.layers import int8_share
from validation.page.write import MISSING, bare, by_unit, duration, ends, metric, ms, share, signed, size, times
from validation.report import ContractLine, Interval, LatencyFacts, Report

SHOWN_FAILURES = 8
SHOWN_FIGURES = 4
_SENSES = {"<=": "≤", ">=": "≥", "==": "="}


@dataclass(frozen=True)
class Headline:
    """The verdict in two sentences."""

    verdict: str
    detail: str


@dataclass(frozen=True)
class Failure:
    """A line of the contract that is broken: what was measured beside its limit, and what is known of the cause."""

    name: str
    figures: str
    cause: str


@dataclass(frozen=True)
class Figure:
    """One number that people ask for first."""

    label: str
    value: str
    context: str


@dataclass(frozen=True)
class Gauge:
    """A measurement and its limit on a bar, in per cent of it; low and high are the interval's ends."""

    value: float | None
    low: float
    high: float
    limit: float
    kept_from: float
    kept_to: float


@dataclass(frozen=True)
class Line:
    """A line of the contract as it is shown."""

    name: str
    measured: str
    interval: str
    limit: str
    margin: str
    rule: str
    note: str
    passed: bool
    known: bool
    gauge: Gauge | None


def headline(report: Report) -> Headline:
    """Whether the contract is kept, then how many lines break it or the one that comes nearest to it."""
    total, broken = len(report.contract), [line for line in report.contract if not line.passed]
    if not total:
        return Headline("Contract not met", "Nothing was checked, and an empty verdict never passes.")
    if broken:
        verb = "fails" if len(broken) == 1 else "fail"
        return Headline("Contract not met", f"{len(broken)} of {total} checks {verb}.")
    every = "The only check holds." if total == 1 else f"All {total} checks hold."
    room = {
        line.name: line.margin / abs(line.limit) for line in report.contract if line.margin is not None and line.limit
    }
    if not room:
        return Headline("Contract met", every)
    nearest = min(room, key=lambda name: room[name])
    return Headline("Contract met", f"{every} The tightest is {nearest}, {room[nearest]:.0%} inside its limit.")


def failures(report: Report) -> list[Failure]:
    """The lines that break the contract, in its order."""
    return [Failure(line.name, _figures(line), cause(line, report)) for line in report.contract if not line.passed]


def notes(report: Report) -> list[str]:
    """What the reader should know, but for what the verdict says already."""
    told = {f"{line.name}: {line.note}" for line in report.contract if line.note and not line.passed}
    return [note for note in report.notes if note not in told]


def key_figures(report: Report) -> list[Figure]:
    """The main metric on its worst engine, latency, speed-up, INT8 share, size: the first four that there are."""
    parts = (_accuracy_figure, _latency_figure, _speedup_figure, _layer_figure, _size_figure)
    return [figure for part in parts for figure in part(report)][:SHOWN_FIGURES]


def contract_lines(report: Report) -> list[Line]:
    """The contract line by line."""
    return [_line(line) for line in report.contract]


def _figures(line: ContractLine) -> str:
    if line.measured is None:
        return f"not measured, limit {_limit(line)}"
    shown = by_unit(line.unit)
    decides = {"proven_kept": ", must be proven", "unless_proven_broken": ", proven broken"}.get(line.decide, "")
    interval = ends(Interval(value=line.measured, low=line.low, high=line.high), bare(line.unit)) if decides else ""
    return f"{' '.join(filter(None, (shown(line.measured), interval)))}, limit {_limit(line)}{decides}"


def _accuracy_figure(report: Report) -> list[Figure]:
    name = main_metric(report)
    measured = {engine: metrics.get(name) for engine, metrics in report.accuracy.engines.items()}
    known = {engine: value for engine, value in measured.items() if value is not None}
    if not known:
        return []
    worst = min(known, key=lambda engine: known[engine])
    drop = drop_of(report, worst, name)
    interval = f" {ends(drop)}" if drop.low is not None else ""
    value = metric(report.accuracy.reference.get(name))
    context = f"{report.beside} {value}, drop {metric(drop.value)}{interval}"
    return [Figure(f"{name}, {worst}", metric(known[worst]), context)]


def _latency_figure(report: Report) -> list[Figure]:
    for name, facts in report.latency.items():
        percentile, value = _tail(facts)
        return [Figure(f"median latency, {name}", f"{ms(facts.total.p50_ms)} ms", f"{percentile} {value}")]
    for scenario in report.scenarios[:1]:
        percentiles = {name: found.value for name, found in scenario.percentiles.items()}
        context = f"p99 {ms(percentiles.get('p99'))} ms"
        return [Figure(f"median latency, {scenario.engine}", f"{ms(percentiles.get('p50'))} ms", context)]
    return []


def _speedup_figure(report: Report) -> list[Figure]:
    return [
        Figure(
            f"times as fast, {name}",
            times(found.ratio.value),
            f"float {ms(found.before_ms)} ms, now {ms(found.after_ms)} ms",
        )
        for name, found in itertools.islice(report.speedups.items(), 1)
    ]


def _layer_figure(report: Report) -> list[Figure]:
    if not report.layers:
        return []
    int8 = sum(layer.precision == "int8" for layer in report.layers)
    return [Figure("MACs in INT8", share(int8_share(report.layers)), f"{int8} of {len(report.layers)} layers")]


def _size_figure(report: Report) -> list[Figure]:
    sized = (engine for engine in report.engines if engine.runs_here and engine.size_bytes is not None)
    return [
        Figure(f"engine size, {engine.name}", size(engine.size_bytes), f"built in {duration(engine.seconds)}")
        for engine in itertools.islice(sized, 1)
    ]


def _tail(facts: LatencyFacts) -> tuple[str, str]:
    """The percentile that the contract speaks of, or p99, and its value beside the deadline."""
    known = {"p50": facts.total.p50_ms, "p90": facts.total.p90_ms}
    known |= {"p99": facts.total.p99_ms, "p99.9": facts.total.p99_9_ms}
    for deadline in facts.deadlines:
        return deadline.percentile, f"{ms(known[deadline.percentile])} of {deadline.ms:g} ms"
    return "p99", f"{ms(known['p99'])} ms"


def _line(line: ContractLine) -> Line:
    shown = by_unit(line.unit)
    margin = MISSING if line.margin is None else "" if line.sense == "==" else signed(line.margin, shown)
    return Line(
        name=line.name,
        measured=shown(line.measured),
        interval=ends(Interval(value=line.measured, low=line.low, high=line.high), bare(line.unit)),
        limit=_limit(line),
        margin=margin,
        rule={"point": "", "proven_kept": "must be proven", "unless_proven_broken": "unless proven broken"}[
            line.decide
        ],
        note=line.note if line.passed else "",  # of a broken line it stands at the top of the page
        passed=line.passed,
        known=line.measured is not None,
        gauge=None if line.sense == "==" else _gauge(line),
    )


def _limit(line: ContractLine) -> str:
    return f"{_SENSES[line.sense]} {by_unit(line.unit)(line.limit)}"


def _gauge(line: ContractLine) -> Gauge:
    """From 0, or from what is below it, to a little beyond the largest of measurement, interval and limit."""
    value = line.measured if line.measured is not None else line.limit
    low = value if line.low is None else line.low
    high = value if line.high is None else line.high
    least = min(0.0, low, value, line.limit)
    span = 1.08 * (max(high, value, line.limit) - least) or 1.0

    def place(figure: float) -> float:
        return round(100 * (figure - least) / span, 1)

    limit = place(line.limit)
    return Gauge(
        value=None if line.measured is None else place(value),
        low=place(low),
        high=place(high),
        limit=limit,
        kept_from=0.0 if line.sense == "<=" else limit,
        kept_to=limit if line.sense == "<=" else 100.0,
    )
