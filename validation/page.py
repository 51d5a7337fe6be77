"""The report as one HTML page that needs nothing else: no network, no scripts, no other file."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from avcompress.files import write_atomically
from validation.gates import accuracy_check, drop_check
from validation.pictures import Picture
from validation.plots import latency_histogram
from validation.report import ContractLine, LatencyFacts, LayerCounts, LayerFacts, Report, report_json

MISSING = "n/a"
SHOWN_CLASSES = 12
NO_UNITS_BELOW = 1024


def write_report(report: Report, pictures: Sequence[Picture], folder: Path) -> None:
    """Write report.json and report.html into the folder, each one completely or not at all; raises OutputError."""
    write_atomically(folder / "report.json", report_json(report))
    write_atomically(folder / "report.html", render_html(report, pictures))


def render_html(report: Report, pictures: Sequence[Picture] = ()) -> str:
    """The report as a self-contained page: verdict first, then what it rests on."""
    return page_template("report.html.j2").render(
        report=report,
        pictures=pictures,
        created=f"{report.created.day} {report.created:%B %Y, %H:%M %Z}",
        headline=headline(report),
        figures=key_figures(report),
        lines=[_line(line) for line in report.contract],
        overall=metric_rows(report, by_class=False),
        by_class=metric_rows(report, by_class=True),
        absent=absent_classes(report),
        shown_classes=SHOWN_CLASSES,
        latencies=[(engine, facts, _plot(engine, facts)) for engine, facts in report.latency.items()],
        reasons=reasons(report.layers),
        telling=list(dict.fromkeys(engine for layer in report.layers for engine in layer.engines)),
        macs=sum(layer.macs for layer in report.layers),
        int8_share=_int8(report.layers),
    )


def page_template(name: str) -> Template:
    """A template of this package with the filters that every page uses."""
    environment = Environment(
        loader=PackageLoader("validation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (metric, change, ms, share, count, size, duration, decibels, data_uri, layer_line)
    environment.filters.update({function.__name__: function for function in filters})
    return environment.get_template(name)


# --- what the page says


@dataclass(frozen=True)
class Headline:
    """The verdict in two sentences."""

    verdict: str
    detail: str


@dataclass(frozen=True)
class Figure:
    """One number that people ask for first."""

    label: str
    value: str
    context: str


@dataclass(frozen=True)
class Line:
    """A line of the contract as it is shown; `gauge` places measurement and limit on a bar of 0 to 100."""

    name: str
    measured: str
    limit: str
    margin: str
    passed: bool
    known: bool
    gauge: tuple[float, float] | None


@dataclass(frozen=True)
class Cell:
    """One metric on one engine; `broken` when a line of the contract about it is."""

    value: float | None
    change: float | None
    broken: bool


@dataclass(frozen=True)
class MetricRow:
    """One metric: the float network, then each engine; `worst` is its largest loss, signed, `loss` its bar of 0-100."""

    name: str
    reference: float | None
    cells: tuple[Cell, ...]
    worst: float
    loss: float = 0.0


@dataclass(frozen=True)
class Reason:
    """The layers that share a precision and a reason."""

    precision: str
    reason: str
    layers: int
    macs: int


def headline(report: Report) -> Headline:
    """Whether the contract is kept, then the lines that break it or the one that comes nearest to it."""
    total, broken = len(report.contract), [line for line in report.contract if not line.passed]
    if not total:
        return Headline("Contract not met", "Nothing was checked, and an empty verdict never passes.")
    if broken:
        names = ", ".join(line.name for line in broken[:4]) + (" and others" if len(broken) > 4 else "")
        return Headline("Contract not met", f"{len(broken)} of {total} checks fail: {names}.")
    every = "The only check holds." if total == 1 else f"All {total} checks hold."
    room = {line.name: line.margin / abs(line.limit) for line in report.contract if line.margin and line.limit}
    if not room:
        return Headline("Contract met", every)
    nearest = min(room, key=lambda name: room[name])
    return Headline("Contract met", f"{every} The tightest is {nearest}, {room[nearest]:.0%} inside its limit.")


def key_figures(report: Report) -> list[Figure]:
    """The main metric on its worst engine, the latency, the INT8 share, the size: those that there are."""
    figures = []
    rows = metric_rows(report, by_class=False)
    if rows and rows[0].cells:
        row = rows[0]
        worst = min(row.cells, key=lambda cell: math.inf if cell.value is None else cell.value)
        figures.append(Figure(row.name, metric(worst.value), f"float {metric(row.reference)}, {change(worst.change)}"))
    for name, facts in itertools.islice(report.latency.items(), 1):
        percentile, value = _tail(facts)
        figures.append(Figure(f"median latency, {name}", f"{ms(facts.total.p50_ms)} ms", f"{percentile} {value}"))
    if report.layers:
        int8 = sum(layer.precision == "int8" for layer in report.layers)
        figures.append(Figure("MACs in INT8", share(_int8(report.layers)), f"{int8} of {len(report.layers)} layers"))
    sized = (engine for engine in report.engines if engine.runs_here and engine.size_bytes is not None)
    for engine in itertools.islice(sized, 1):
        context = f"built in {duration(engine.seconds)}"
        figures.append(Figure(f"engine size, {engine.name}", size(engine.size_bytes), context))
    return figures


def metric_rows(report: Report, by_class: bool) -> list[MetricRow]:
    """Overall metrics in their order, or the first family of per-class metrics (AP/..., IoU/...), worst change first.

    Classes without any labelled object are left out; absent_classes names them.
    """
    wanted = _class_metrics(report) if by_class else [name for name in report.accuracy.reference if "/" not in name]
    rows = [_metric_row(report, name) for name in wanted]
    if not by_class:
        return rows
    known = sorted((row for row in rows if row.reference is not None), key=lambda row: (row.worst, row.name))
    largest = max((abs(row.worst) for row in known), default=0.0) or 1.0
    return [replace(row, loss=round(100 * max(0.0, -row.worst) / largest, 1)) for row in known]


def absent_classes(report: Report) -> list[str]:
    """Classes that the validation labels do not hold."""
    reference = report.accuracy.reference
    return [name.partition("/")[2] for name in _class_metrics(report) if reference[name] is None]


def reasons(layers: Sequence[LayerFacts]) -> list[Reason]:
    """Layers by precision and reason, most MACs first."""
    groups: dict[tuple[str, str], list[LayerFacts]] = {}
    for layer in layers:
        groups.setdefault((layer.precision, layer.reason), []).append(layer)
    found = [Reason(*key, len(group), sum(layer.macs for layer in group)) for key, group in groups.items()]
    return sorted(found, key=lambda reason: -reason.macs)


def _class_metrics(report: Report) -> list[str]:
    names = [name for name in report.accuracy.reference if "/" in name]
    return [name for name in names if name.partition("/")[0] == names[0].partition("/")[0]]


def _metric_row(report: Report, name: str) -> MetricRow:
    reference = report.accuracy.reference[name]
    broken = {line.name for line in report.contract if not line.passed}
    cells = []
    for engine, metrics in report.accuracy.engines.items():
        value = metrics.get(name)
        difference = None if value is None or reference is None else value - reference
        judged = {accuracy_check(name, engine), drop_check(name, engine)}
        cells.append(Cell(value, difference, bool(judged & broken)))
    return MetricRow(name, reference, tuple(cells), min((cell.change for cell in cells if cell.change), default=0.0))


def _int8(layers: Sequence[LayerFacts]) -> float | None:
    """The share of multiply-accumulates that is planned as INT8."""
    macs = sum(layer.macs for layer in layers)
    return sum(layer.macs for layer in layers if layer.precision == "int8") / macs if macs else None


def _tail(facts: LatencyFacts) -> tuple[str, str]:
    """The percentile that the contract speaks of, or p99, and its value beside the deadline."""
    known = {"p50": facts.total.p50_ms, "p90": facts.total.p90_ms}
    known |= {"p99": facts.total.p99_ms, "p99.9": facts.total.p99_9_ms}
    for deadline in facts.deadlines:
        return deadline.percentile, f"{ms(known[deadline.percentile])} of {deadline.ms:g} ms"
    return "p99", f"{ms(known['p99'])} ms"


def _line(line: ContractLine) -> Line:
    writers: dict[str, Callable[[float | None], str]] = {"ms": lambda value: f"{ms(value)} ms", "": metric}
    shown = writers.get(line.unit, count)
    span = 1.15 * max(line.limit, line.measured or 0.0) or 1.0
    margin = MISSING if line.margin is None else "" if line.sense == "==" else _signed(line.margin, shown)
    return Line(
        name=line.name,
        measured=shown(line.measured),
        limit=f"{ {'<=': '≤', '>=': '≥', '==': '='}[line.sense] } {shown(line.limit)}",
        margin=margin,
        passed=line.passed,
        known=line.measured is not None,
        gauge=None if line.sense == "==" else (_place(line.measured or 0.0, span), _place(line.limit, span)),
    )


def _place(value: float, span: float) -> float:
    return round(100 * max(0.0, value) / span, 1)


def _plot(engine: str, facts: LatencyFacts) -> Markup:
    total = facts.total
    marks = [("p50", total.p50_ms), ("p99", total.p99_ms), ("p99.9", total.p99_9_ms)]
    known = [(name, value) for name, value in marks if value is not None]
    deadline = min((term.ms for term in facts.deadlines), default=None)
    # Safe: matplotlib wrote it, and escapes what is drawn as text.
    return Markup(latency_histogram(facts.samples_ms, known, deadline, f"latency-{engine}"))  # noqa: S704


# --- how the page writes figures


def metric(value: float | None) -> str:
    """A figure of 0-1."""
    return MISSING if value is None else f"{value:.4f}"


def change(value: float | None) -> str:
    """A signed difference of figures of 0-1, with a true minus."""
    return MISSING if value is None else _signed(value, metric)


def ms(value: float | None) -> str:
    """Milliseconds, three significant digits or whole microseconds' tenth."""
    if value is None:
        return MISSING
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def share(value: float | None) -> str:
    """A share of 0-1 in per cent."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return MISSING if value is None else f"{value:,.0f}".replace(",", "\u2009")


def decibels(value: float | None) -> str:
    """A ratio in dB."""
    return MISSING if value is None else f"{value:.1f}"


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


def _with_size(layers: int, moved_bytes: int | None) -> str:
    return f"{layers} ({size(moved_bytes)} a run)" if layers and moved_bytes is not None else str(layers)


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as a data URI of the media type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _signed(value: float, shown: Callable[[float | None], str]) -> str:
    sign = "+" if value > 0 else "−" if value < 0 else ""
    return sign + shown(abs(value))
