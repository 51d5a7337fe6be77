"""The page's part on latency: a block for each engine and scenario, or for what was timed one image at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from validation.latency import RUNS_NEEDED
from validation.page.write import MISSING, count, ends, ms, rate, span
from validation.plots import Timeline, latency_plot
from validation.report import Interval, LatencyFacts, MachineState, Percentiles, Report, ScenarioFacts

NAMES = ("p50", "p90", "p99", "p99.9")
_SCENARIOS = {
    "single_stream": "one image after the other",
    "constant_stream": "one camera",
    "multi_camera": "cameras",
}


@dataclass(frozen=True)
class Column:
    """One figure of a latency, with its bounds in brackets."""

    name: str
    value: str
    bounds: str = ""


@dataclass(frozen=True)
class Block:
    """One engine in one scenario; `facts` are (name, value) of what else is known, `warnings` what spoils it."""

    engine: str
    title: str
    plot: Markup
    text: str
    columns: tuple[Column, ...]
    parts: tuple[tuple[str, Percentiles], ...]
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def latency_blocks(report: Report) -> list[Block]:
    """Every scenario; and engines that were timed one image at a time, where no scenario says the same."""
    told = {facts.engine for facts in report.scenarios if facts.scenario == "single_stream"}
    plain = [(engine, facts) for engine, facts in report.latency.items() if engine not in told]
    return [
        *(_plain_block(engine, facts) for engine, facts in plain),
        *(_block(report, facts) for facts in report.scenarios),
    ]


def _plain_block(engine: str, facts: LatencyFacts) -> Block:
    total = facts.total
    values = dict(zip(NAMES, (total.p50_ms, total.p90_ms, total.p99_ms, total.p99_9_ms), strict=True))
    deadlines = tuple(sorted({term.ms for term in facts.deadlines}))
    timeline = Timeline(_starts(facts.samples_ms), facts.samples_ms, (), _marks(values), deadlines)
    named = {"mean": total.mean_ms, **values, "max": total.max_ms}
    columns = [Column(name, ms(value)) for name, value in named.items()]
    beside = [] if facts.float_total is None else [("the float network", facts.float_total)]
    return Block(
        engine=engine,
        title=f"{count(facts.runs)} runs, one image at a time, after {count(facts.warmup)} to warm up",
        plot=_plot(timeline, f"latency-{engine}"),
        text=_alternative(f"{engine}, one image at a time", timeline, values),
        columns=tuple(columns),
        parts=(*facts.stages.items(), *beside),
        facts=(),
        warnings=(),
    )


def _block(report: Report, facts: ScenarioFacts) -> Block:
    values = {name: facts.percentiles[name].value for name in NAMES if name in facts.percentiles}
    deadlines = tuple(sorted({miss.deadline_ms for miss in facts.misses}))
    timeline = Timeline(facts.arrivals_s, facts.samples_ms, facts.dropped_s, _marks(values), deadlines)
    columns = [Column("mean", ms(facts.mean_ms)), *_percentiles(facts), Column("max", ms(facts.max_ms))]
    if facts.jitter_ms is not None:
        columns.append(Column("jitter", ms(facts.jitter_ms)))
    alone = report.latency.get(facts.engine) if facts.scenario == "single_stream" else None
    beside = [] if alone is None or alone.float_total is None else [("the float network", alone.float_total)]
    return Block(
        engine=facts.engine,
        title=_title(facts),
        plot=_plot(timeline, f"latency-{facts.engine}-{facts.scenario}") if facts.samples_ms else Markup(""),
        text=_alternative(f"{facts.engine}, {_title(facts)}", timeline, values) if facts.samples_ms else "",
        columns=tuple(columns),
        parts=(*facts.stages.items(), *beside),
        facts=tuple(_facts(facts)),
        warnings=facts.throttled,
    )


def _percentiles(facts: ScenarioFacts) -> Iterator[Column]:
    """A percentile that a dropped image would be is no figure, but known: nobody should take it for unmeasured."""
    total = len(facts.samples_ms) + len(facts.dropped_s)
    for name in NAMES:
        found = facts.percentiles.get(name)
        if found is None or found.value is None:
            enough = found is not None and total >= RUNS_NEEDED[name]
            yield Column(name, "dropped" if enough else MISSING)
        else:
            yield Column(name, ms(found.value), ends(found, ms))


def _title(facts: ScenarioFacts) -> str:
    pace = "" if facts.rate_hz is None else f" at {facts.rate_hz:g} Hz"
    cameras = f"{facts.cameras} " if facts.scenario == "multi_camera" else ""
    queue = {"newest": ", the newest image first", "every": ", every image in turn", None: ""}[facts.queue]
    load = f", {facts.background_load} busy processes beside it" if facts.background_load else ""
    parts = "" if facts.end_to_end else ", the engine alone"
    total = len(facts.samples_ms) + len(facts.dropped_s)
    how = f"{cameras}{_SCENARIOS[facts.scenario]}{pace}{queue}{load}{parts}"
    return f"{how}; {count(total)} images after {count(facts.warmup)} to warm up"


def _facts(facts: ScenarioFacts) -> list[tuple[str, str]]:
    total = len(facts.samples_ms) + len(facts.dropped_s)
    found = [(f"later than {miss.deadline_ms:g} ms", _missed(miss.missed, total, miss.rate)) for miss in facts.misses]
    if facts.rate_hz is not None:
        found.append(("dropped", f"{count(len(facts.dropped_s))} of {count(total)} images"))
    if facts.machine is not None:
        found += _machine(facts.machine)
    if facts.peak_memory_mb is not None:
        found.append(("peak memory", f"{count(facts.peak_memory_mb)} MB"))
    found += [(f"energy, {by}", _energy(joules, len(facts.samples_ms))) for by, joules in facts.energy_j.items()]
    return found


def _missed(missed: int, total: int, found: Interval) -> str:
    return f"{count(missed)} of {count(total)} images, {rate(found.value)} {ends(found, rate)}"


def _energy(joules: float, images: int) -> str:
    return f"{joules:.1f} J, {1000 * joules / images:.1f} mJ an image" if images else f"{joules:.1f} J"


def _machine(state: MachineState) -> list[tuple[str, str]]:
    clocks = ", ".join(f"{name} {span(seen, 'MHz')}" for name, seen in state.clocks_mhz.items())
    heat = ", ".join(f"{name} {span(seen, '°C')}" for name, seen in state.temperatures_c.items())
    load = "" if state.load_average is None else f"{state.load_average.low:.1f}–{state.load_average.high:.1f}"
    named = (
        ("governor", ", ".join(state.governors)),
        ("power mode", state.power_mode or ""),
        ("clocks", clocks),
        ("temperatures", heat),
        ("load average", load),
    )
    return [(name, text) for name, text in named if text]


def _starts(samples_ms: tuple[float, ...]) -> tuple[float, ...]:
    """When each image began, where the next began as the last was done."""
    ends_s = itertools.accumulate(sample / 1000 for sample in samples_ms)
    return tuple(itertools.islice(itertools.chain((0.0,), ends_s), len(samples_ms)))


def _marks(values: dict[str, float | None]) -> tuple[tuple[str, float], ...]:
    return tuple((name, value) for name, value in values.items() if value is not None)


def _plot(timeline: Timeline, identity: str) -> Markup:
    # Safe: matplotlib wrote it, and escapes what is drawn as text.
    return Markup(latency_plot(timeline, identity))  # noqa: S704


def _alternative(what: str, timeline: Timeline, values: dict[str, float | None]) -> str:
    """What the plot shows, in words."""
    percentiles = ", ".join(f"{name} {ms(value)}" for name, value in values.items() if value is not None)
    late = [
        f"{sum(sample > deadline for sample in timeline.samples_ms)} later than the deadline of {deadline:g} ms"
        for deadline in timeline.deadlines_ms
    ]
    dropped = [f"{len(timeline.dropped_s)} images dropped"] if timeline.dropped_s else []
    slowest = f"slowest {ms(max(timeline.samples_ms))}"
    said = ", ".join([percentiles, slowest, *late, *dropped])
    return f"Latency of every image over time and its histogram, {what}: in milliseconds {said}."
