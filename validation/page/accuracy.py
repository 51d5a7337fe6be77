"""The page's tables of metrics: the reference, each engine, and the paired drop with its interval on a scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from validation.comparison import EVERYWHERE, less_is_better
from validation.page.bars import Bar, Scale, forest_scale, is_proven
from validation.report import ComparisonFacts, Interval, Report, SliceFacts

OPERATING = ("precision", "recall", "F1", "false_alarms", "ece")
"""Of detection, the metrics that hold at the deployed threshold."""
UNMEASURED = Interval(value=None, low=None, high=None)


@dataclass(frozen=True)
class Cell:
    """One metric on one engine, and how much worse it is.

    Attributes:
        value: the engine's.
        drop: how much worse it is than the reference.
        broken: a line of the contract about it is.
        apart: its drop is proven, and larger than that of the whole set even at the ends of both intervals.
        bar: the drop on the table's scale.
    """

    value: Interval
    drop: Interval
    broken: bool
    apart: bool = False
    bar: Bar | None = None


@dataclass(frozen=True)
class Row:
    """One metric or slice: the float network, then each engine; `images` and `objects` are a slice's."""

    name: str
    reference: Interval
    cells: tuple[Cell, ...]
    images: int | None = None
    objects: int | None = None

    @property
    def apart(self) -> bool:
        """Whether an engine's drop stands apart from that of the whole set."""
        return any(cell.apart for cell in self.cells)

    @property
    def broken(self) -> bool:
        """Whether a line of the contract about it is, on an engine."""
        return any(cell.broken for cell in self.cells)

    @property
    def proven(self) -> bool:
        """Whether an engine's drop is proven."""
        return any(is_proven(cell.drop) for cell in self.cells)

    @property
    def worst(self) -> float:
        """The largest drop of all engines; 0 where nothing was measured."""
        return max((cell.drop.value for cell in self.cells if cell.drop.value is not None), default=0.0)


@dataclass(frozen=True)
class Table:
    """Rows whose drops lie on one scale; no scale where nothing was measured."""

    rows: tuple[Row, ...]
    scale: Scale | None


def main_metric(report: Report) -> str:
    """The metric that stands for accuracy: the first of the report."""
    return next(iter(report.accuracy.reference), "AP" if report.task == "detection" else "mIoU")


def main_family(name: str) -> str:
    """The metric by class that a mean is of: AP of AP, IoU of mIoU."""
    return "IoU" if name == "mIoU" else name


def overall(report: Report) -> Table:
    """Metrics of all classes that hold at every threshold, in their order."""
    names = [name for name in report.accuracy.reference if "/" not in name and not _operating(report, name)]
    return _table(_row(report, name) for name in names)


def operating(report: Report) -> Table:
    """Metrics of all classes at the deployed threshold; those that may be above 1 have a table of their own."""
    names = [name for name in report.accuracy.reference if _operating(report, name) and name != "false_alarms"]
    return _table(_row(report, name) for name in names)


def false_alarms(report: Report) -> Table:
    """False alarms per image, which lie on another scale than shares do."""
    return _table(_row(report, name) for name in report.accuracy.reference if name == "false_alarms")


def by_class(report: Report, family: str) -> Table:
    """One metric by class: what breaks the contract, proven drops, others; classes without a label are left out."""
    names = [name for name in report.accuracy.reference if name.startswith(f"{family}/")]
    rows = [row for name in names if (row := _row(report, name)).reference.value is not None]
    rows.sort(key=lambda row: (not row.broken, not row.proven, -row.worst, row.name))
    return _table(replace(row, name=row.name.partition("/")[2]) for row in rows)


def absent_classes(report: Report, family: str) -> list[str]:
    """Classes that the validation labels do not hold."""
    reference = report.accuracy.reference
    return [name.partition("/")[2] for name in reference if name.startswith(f"{family}/") and reference[name] is None]


def drop_of(report: Report, engine: str, name: str, where: str = EVERYWHERE) -> Interval:
    """How much worse a metric is on an engine, with its interval where there is one."""
    found = _part(report.comparisons.get(engine), where)
    if found is not None and name in found.drop:
        return found.drop[name]
    before, after = report.accuracy.reference.get(name), report.accuracy.engines.get(engine, {}).get(name)
    if before is None or after is None or where != EVERYWHERE:
        return UNMEASURED
    return Interval(value=after - before if less_is_better(name) else before - after, low=None, high=None)


def broken(report: Report, engine: str, name: str, where: str = EVERYWHERE) -> bool:
    """Whether a line of the contract about this metric, here, on this engine is broken."""
    place = "" if where == EVERYWHERE else where
    return any(
        not line.passed and (line.engine, line.metric, line.slice) == (engine, name, place) for line in report.contract
    )


def stands_apart(drop: Interval, whole: Interval) -> bool:
    """Whether a drop is proven, and proven to be larger than that of the whole."""
    return is_proven(drop) and whole.high is not None and (drop.low or 0.0) > whole.high


def scaled(rows: Sequence[Row]) -> Table:
    """Rows with their drops on one scale."""
    scale = forest_scale(cell.drop for row in rows for cell in row.cells)
    if scale is None:
        return Table(tuple(rows), None)
    placed = (
        replace(row, cells=tuple(replace(cell, bar=scale.bar(cell.drop, cell.broken)) for cell in row.cells))
        for row in rows
    )
    return Table(tuple(placed), scale)


def _table(rows: Iterable[Row]) -> Table:
    return scaled(tuple(rows))


def _mean_of(name: str) -> str:
    family = name.partition("/")[0]
    return "mIoU" if family == "IoU" else family


def _operating(report: Report, name: str) -> bool:
    return report.task == "detection" and name in OPERATING


def _part(comparison: ComparisonFacts | None, where: str) -> SliceFacts | None:
    return None if comparison is None else comparison.find(where)


def _row(report: Report, name: str) -> Row:
    return Row(
        name=name,
        reference=_reference(report, name),
        cells=tuple(_cell(report, engine, name) for engine in report.accuracy.engines),
    )


def _reference(report: Report, name: str) -> Interval:
    for comparison in report.comparisons.values():
        found = _part(comparison, EVERYWHERE)
        if found is not None and name in found.reference:
            return found.reference[name]
    return Interval(value=report.accuracy.reference[name], low=None, high=None)


def _cell(report: Report, engine: str, name: str) -> Cell:
    found = _part(report.comparisons.get(engine), EVERYWHERE)
    drop, whole = drop_of(report, engine, name), drop_of(report, engine, _mean_of(name))
    plain = Interval(value=report.accuracy.engines[engine].get(name), low=None, high=None)
    return Cell(
        value=plain if found is None else found.network.get(name, plain),
        drop=drop,
        broken=broken(report, engine, name),
        apart="/" in name and stands_apart(drop, whole),
    )
