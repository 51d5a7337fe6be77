"""The page's part on slices and corruptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from validation.comparison import EVERYWHERE
from validation.page.accuracy import UNMEASURED, Cell, Row, Table, broken, drop_of, scaled, stands_apart
from validation.report import Interval, Report, SliceFacts


@dataclass(frozen=True)
class Group:
    """The slices of one kind, as size:small and size:large, on the scale that all groups share."""

    name: str
    table: Table


@dataclass(frozen=True)
class GridCell:
    """One corruption at one severity; `tint` is 0 to 100, by the drop."""

    reference: float | None
    network: float | None
    drop: Interval
    tint: int
    broken: bool


@dataclass(frozen=True)
class GridRow:
    """One corruption; None at severities that were not measured."""

    name: str
    cells: tuple[GridCell | None, ...]


@dataclass(frozen=True)
class Grid:
    """One engine under every corruption at every severity; `clean` is without any."""

    engine: str
    severities: tuple[str, ...]
    clean: GridCell
    rows: tuple[GridRow, ...]


def slice_groups(report: Report, metric: str) -> list[Group]:
    """Every slice of the labels by its kind, on one scale."""
    names = dict.fromkeys(
        part.name
        for comparison in report.comparisons.values()
        for part in comparison.slices
        if not part.corruption and part.name != EVERYWHERE and metric in part.reference
    )
    table = scaled([_row(report, name, metric) for name in names])
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        kind, _, value = row.name.partition(":")
        groups.setdefault(kind, []).append(replace(row, name=value or row.name))
    return [Group(kind, replace(table, rows=tuple(rows))) for kind, rows in groups.items()]


def corruption_grids(report: Report, metric: str) -> list[Grid]:
    """Severity beside severity for every corruption, a grid for each engine that was tried so."""
    tried: dict[str, dict[str, SliceFacts]] = {}
    for engine, comparison in report.comparisons.items():
        parts = {part.name: part for part in comparison.slices if part.corruption}
        clean = comparison.find(EVERYWHERE)
        if parts and clean is not None:
            tried[engine] = {EVERYWHERE: clean, **parts}
    every = (part for parts in tried.values() for part in parts.values())
    most = max((_drop(part, metric).value or 0.0 for part in every), default=0.0)  # one scale for all engines
    return [_grid(report, engine, metric, parts, most) for engine, parts in tried.items()]


def standing_apart(groups: list[Group]) -> list[str]:
    """The slices where some engine's drop is proven to be larger than over all images."""
    return [f"{group.name}:{row.name}" for group in groups for row in group.table.rows if row.apart]


def _grid(report: Report, engine: str, metric: str, parts: dict[str, SliceFacts], most: float) -> Grid:
    def cell(name: str) -> GridCell | None:
        part = parts.get(name)
        if part is None:
            return None
        drop = _drop(part, metric)
        return GridCell(
            reference=part.reference.get(metric, UNMEASURED).value,
            network=part.network.get(metric, UNMEASURED).value,
            drop=drop,
            tint=round(100 * max(0.0, drop.value or 0.0) / most) if most > 0 else 0,
            broken=broken(report, engine, metric, name),
        )

    corrupted = [name.rpartition(":") for name in parts if name != EVERYWHERE]
    severities = tuple(sorted({severity for _, _, severity in corrupted}))
    clean = cell(EVERYWHERE)
    if clean is None:
        raise ValueError("corruptions: expected the clean images among the slices, got none")
    rows = tuple(
        GridRow(name, tuple(cell(f"{name}:{severity}") for severity in severities))
        for name in dict.fromkeys(name for name, _, _ in corrupted)
    )
    return Grid(engine, severities, clean, rows)


def _drop(part: SliceFacts, metric: str) -> Interval:
    return part.drop.get(metric, UNMEASURED)


def _row(report: Report, name: str, metric: str) -> Row:
    parts = [part for part in _of_engines(report, name) if part is not None]
    return Row(
        name=name,
        reference=parts[0].reference.get(metric, UNMEASURED),
        cells=tuple(
            Cell(
                value=UNMEASURED if part is None else part.network.get(metric, UNMEASURED),
                drop=UNMEASURED if part is None else _drop(part, metric),
                broken=broken(report, engine, metric, name),
                apart=part is not None and stands_apart(_drop(part, metric), drop_of(report, engine, metric)),
            )
            for engine, part in zip(report.comparisons, _of_engines(report, name), strict=True)
        ),
        images=parts[0].images,
        objects=parts[0].objects,
    )


def _of_engines(report: Report, name: str) -> Iterator[SliceFacts | None]:
    return (comparison.find(name) for comparison in report.comparisons.values())
