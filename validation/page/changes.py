"""The page's part on what changed: objects lost and gained, scores that moved, pixels that got worse."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from validation.plots import moves_histogram
from validation.report import ChangeFacts, Histogram, Report


@dataclass(frozen=True)
class ChangeRow:
    """One class, in objects or in pixels; `worse` and `better` are bars of 0 to 100, on one scale."""

    name: str
    total: int
    lost: int
    gained: int
    faded: int
    new_false_alarms: int
    gone_false_alarms: int
    mean_move: float | None
    worst_move: float | None
    worse: float = 0.0
    better: float = 0.0


@dataclass(frozen=True)
class Changes:
    """One engine: classes with any change, the most lost first, their sums, and how scores moved."""

    engine: str
    rows: tuple[ChangeRow, ...]
    unchanged: int
    total: ChangeRow
    faded: bool
    moves: Markup
    moves_text: str


def change_tables(report: Report) -> list[Changes]:
    """A table for each engine whose changes are known."""
    return [_changes(engine, facts) for engine, facts in report.changes.items() if facts.classes or facts.pixels]


def _changes(engine: str, facts: ChangeFacts) -> Changes:
    every = [*_objects(facts), *_pixels(facts)]
    changed = [row for row in every if row.lost or row.gained or row.new_false_alarms or row.gone_false_alarms]
    changed.sort(key=lambda row: (-row.worse, row.better, row.name))
    moves = facts.moves
    drawn = "" if moves is None else moves_histogram(moves.edges, moves.counts, f"moves-{engine}")
    return Changes(
        engine=engine,
        rows=tuple(changed),
        unchanged=len(every) - len(changed),
        total=_sum(every),
        faded=any(row.faded for row in changed),
        moves=Markup(drawn),  # noqa: S704 (drawn here)
        moves_text="" if moves is None else _alternative(moves),
    )


def _objects(facts: ChangeFacts) -> list[ChangeRow]:
    most = max((max(row.lost, row.gained) for row in facts.classes), default=0) or 1
    return [
        ChangeRow(
            name=row.name,
            total=row.objects,
            lost=row.lost,
            gained=row.gained,
            faded=row.faded,
            new_false_alarms=row.new_false_alarms,
            gone_false_alarms=row.gone_false_alarms,
            mean_move=row.mean_move,
            worst_move=row.worst_move,
            worse=round(100 * row.lost / most, 1),
            better=round(100 * row.gained / most, 1),
        )
        for row in facts.classes
    ]


def _pixels(facts: ChangeFacts) -> list[ChangeRow]:
    """Bars are shares of the class's own pixels: a lost bicycle is fewer pixels than a frayed road."""
    parts = [(row.worse / row.pixels, row.better / row.pixels) if row.pixels else (0.0, 0.0) for row in facts.pixels]
    most = max((max(part) for part in parts), default=0.0) or 1.0
    return [
        ChangeRow(
            name=row.name,
            total=row.pixels,
            lost=row.worse,
            gained=row.better,
            faded=0,
            new_false_alarms=0,
            gone_false_alarms=0,
            mean_move=None,
            worst_move=None,
            worse=round(100 * worse / most, 1),
            better=round(100 * better / most, 1),
        )
        for row, (worse, better) in zip(facts.pixels, parts, strict=True)
    ]


def _sum(rows: list[ChangeRow]) -> ChangeRow:
    return ChangeRow(
        name="all",
        total=sum(row.total for row in rows),
        lost=sum(row.lost for row in rows),
        gained=sum(row.gained for row in rows),
        faded=sum(row.faded for row in rows),
        new_false_alarms=sum(row.new_false_alarms for row in rows),
        gone_false_alarms=sum(row.gone_false_alarms for row in rows),
        mean_move=None,
        worst_move=None,
    )


def _alternative(moves: Histogram) -> str:
    """What the histogram shows, in words."""
    total = sum(moves.counts)
    less = sum(number for edge, number in zip(moves.edges[1:], moves.counts, strict=True) if edge <= 0)
    return f"Histogram of the change of {total} scores: {less} fell, {total - less} rose or stayed."
