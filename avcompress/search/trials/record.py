"""What came of one trial: a JSON file beside its recipe and its report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field

from avcompress.files import write_atomically
from avcompress.frozen import Measured, Model
from validation.report import ContractLine, Report

FILE = "record.json"
Status = Literal["judged", "refused", "failed", "timed out", "lost", "not begun"]
"""refused: bad input, as run says it; failed: it crashed, or was killed; lost: its machine was, or lacked something;
not begun: the budget was spent."""
UNKEPT = ("lost", "not begun")
"""Ends that say nothing of the trial: no file tells of them."""


class Line(Model):
    """One line of the contract."""

    name: str = Field(description="as the report calls it")
    measured: Measured = Field(description="null never passes")
    sense: str = Field(description="<=, >= or ==")
    limit: float = Field(description="the contract's")
    miss: float = Field(description="how far from the limit, as a share of it; 0 where it is kept")
    timed: bool = Field(description="whether it is about time, which chance has a part in")

    @property
    def passed(self) -> bool:
        """Whether the limit is kept."""
        return self.miss == 0


class Figures(Model):
    """What trials are compared by."""

    accuracy: Measured = Field(description="the contract's main metric, the lowest of the engines that ran")
    latency_ms: Measured = Field(description="the median of the first engine that was timed, from image to prediction")
    size_bytes: int | None = Field(description="of that engine")
    noise_ms: Measured = Field(
        None,
        description="how far chance may have moved the latency, which was measured in turns with others: those that "
        "differ by less than both their noises are equal; null: it was measured by itself, and counts as slower",
    )


class Record(Model):
    """What came of one trial."""

    key: str = Field(description="hash over the recipe, its inputs and the version of this tool")
    number: int = Field(description="of the candidate, from 0 in the order of suggestion")
    tier: int = Field(description="of cost: 0 calibrates alone, 1 learns layer by layer or makes smaller, 2 trains")
    share: float = Field(description="of the images and of the training steps")
    suggestion: dict[str, int | float] = Field(description="by choice, the number of its option or its value")
    status: Status = Field(description="how it ended")
    message: str = Field("", description="why, where it was not judged, or not timed")
    seconds: float = Field(description="wall time of its process")
    figures: Figures = Field(Figures(accuracy=None, latency_ms=None, size_bytes=None), description="what it reached")
    lines: tuple[Line, ...] = Field((), description="the contract")
    timed_on: str = Field("", description="where its latency was measured once more; empty: the trial's own holds")

    @property
    def met(self) -> bool:
        """Whether the contract is kept; nothing keeps one that was not judged."""
        return self.status == "judged" and bool(self.lines) and all(line.passed for line in self.lines)

    @property
    def broken(self) -> tuple[str, ...]:
        """The lines that are not kept."""
        return tuple(line.name for line in self.lines if not line.passed)

    def miss(self, timed: bool = True) -> float:
        """How far it is from the contract: the sum over the lines; infinite where it was not judged."""
        if self.status != "judged":
            return math.inf
        return sum(line.miss for line in self.lines if timed or not line.timed)


def slower_ms(one: Record, other: Record) -> float | None:
    """How much longer one takes than another; 0 within their noise, None unless they were measured in turns."""
    ours, theirs = one.figures, other.figures
    if ours.latency_ms is None or theirs.latency_ms is None or ours.noise_ms is None or theirs.noise_ms is None:
        return None
    longer = ours.latency_ms - theirs.latency_ms
    return longer if abs(longer) > ours.noise_ms + theirs.noise_ms else 0.0


def lines_of(report: Report) -> tuple[Line, ...]:
    """The contract's lines of a report."""
    return tuple(
        Line(
            name=line.name,
            measured=line.measured,
            sense=line.sense,
            limit=line.limit,
            miss=0.0 if line.passed else _miss(line),
            timed=bool(line.engine) and not line.metric and line.sense != "==",
        )
        for line in report.contract
    )


def _miss(line: ContractLine) -> float:
    """At least a trace, since the line is broken; one that was not measured is a whole limit away."""
    if line.margin is None:
        return 1.0
    return max(abs(line.margin) / max(abs(line.limit), 1e-9), 1e-9)


def figures_of(report: Report, metric: str) -> Figures:
    """What a report says of accuracy, latency and size."""
    values = [engine.get(metric) for engine in report.accuracy.engines.values()]
    known = [value for value in values if value is not None]
    sizes = {engine.name: engine.size_bytes for engine in report.engines if engine.size_bytes is not None}
    timed = next(iter(report.latency), None)
    return Figures(
        accuracy=min(known) if known and len(known) == len(values) else None,
        latency_ms=report.latency[timed].total.p50_ms if timed is not None else None,
        size_bytes=sizes.get(timed or "", next(iter(sizes.values()), None)),
    )


def save_record(record: Record, folder: Path) -> None:
    """Write a record into the folder of its trial."""
    write_atomically(folder / FILE, record.model_dump_json(indent=1) + "\n")


def keep_record(record: Record, folder: Path) -> None:
    """Write it, unless it says nothing of the trial."""
    if record.status not in UNKEPT:
        save_record(record, folder)


def load_record(folder: Path, key: str) -> Record | None:
    """The record in a trial's folder; None where there is none, it is damaged, or is another trial's."""
    try:
        record = Record.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return record if record.key == key else None
