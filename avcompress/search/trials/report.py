"""What a search found: as JSON, and as Markdown for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from avcompress.frozen import Model
from avcompress.search.trials.front import Prefer, binding, front_of, nearest, winner
from avcompress.search.trials.halving import TRIALS
from avcompress.search.trials.record import Figures, Record
from avcompress.search.trials.tiers import TIERS

JSON, MARKDOWN, BEST = "search.json", "search.md", "best.yaml"


class SearchReport(Model):
    """Everything that a search tried, and what it chose."""

    schema_version: Literal[1] = Field(1, description="version of this layout")
    recipe: str = Field(description="the recipe's name")
    metric: str = Field(description="what `accuracy` is")
    met: bool = Field(description="whether a trial with all images keeps the contract")
    chosen: str | None = Field(description="key of the winner, else of the nearest one; null where nothing was judged")
    binding: tuple[str, ...] = Field(description="the contract's lines that stand in the way, where it is not met")
    front: tuple[str, ...] = Field(
        description="keys of the trials with all images that no other one beats in accuracy, latency and size "
        "together; what keeps the contract is beaten by such alone"
    )
    spent: bool = Field(description="whether the budget was spent before all was tried")
    notes: tuple[str, ...] = Field((), description="which latencies could not be compared, and why")
    trials: tuple[Record, ...] = Field(description="in order")

    @property
    def best(self) -> Record | None:
        """The trial that was chosen."""
        return next((record for record in self.trials if record.key == self.chosen), None)


def report_of(recipe: str, metric: str, records: Sequence[Record], prefer: Prefer) -> SearchReport:
    """The report of a search's records."""
    best = winner(records, prefer)
    chosen = best or nearest(records)
    whole = [record for record in records if record.share == 1 and record.status == "judged"]
    return SearchReport(
        recipe=recipe,
        metric=metric,
        met=best is not None,
        chosen=chosen.key if chosen else None,
        binding=() if best else binding(records),
        front=tuple(record.key for record in front_of(whole)),
        spent=any(record.status == "not begun" for record in records),
        trials=tuple(records),
    )


COLUMNS = ("", "trial", "share", "cost", "accuracy", "ms", "bytes", "contract")


def row(report: SearchReport, record: Record) -> tuple[str, ...]:
    """A trial as a line of a table."""
    figures = record.figures
    mark = "best" if record.key == report.chosen else "front" if record.key in report.front else ""
    outcome = "kept" if record.met else "; ".join(record.broken) or f"{record.status}: {record.message}"
    return (
        mark,
        str(record.number),
        f"{record.share:g}",
        TIERS[record.tier],
        "" if figures.accuracy is None else f"{figures.accuracy:.4f}",
        _latency(figures),
        "" if figures.size_bytes is None else str(figures.size_bytes),
        outcome,
    )


def _latency(figures: Figures) -> str:
    if figures.latency_ms is None:
        return ""
    return f"{figures.latency_ms:.3f}" + (f" ± {figures.noise_ms:.3f}" if figures.noise_ms is not None else "")


def markdown(report: SearchReport) -> str:
    """The report for people: what was found, what stands in the way, every trial."""
    verdict = "keeps" if report.met else "does not keep"
    best = f"trial {report.best.number}, `{BEST}`, {verdict} the contract" if report.best else "no trial was judged"
    lines = [f"# Search: {report.recipe}", "", f"Best: {best}.", ""]
    lines += [f"In the way: {', '.join(report.binding)}.", ""] if report.binding else []
    lines += ["The budget was spent before all was tried.", ""] if report.spent else []
    lines += [line for note in report.notes for line in (f"{note}.", "")]
    lines += [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line([*row(report, record)]) for record in report.trials]
    if any(record.figures.noise_ms is not None for record in report.trials):
        lines += [
            "",
            "`ms` with ± were measured in turns; what differs by less than both is equal. Others count as slower.",
        ]
    lines += ["", f"`accuracy` is {report.metric}. Each trial's recipe and report are in `{TRIALS}`:", ""]
    lines += [f"- {record.number} at {record.share:g}: `{TRIALS}/{record.key[:16]}`" for record in report.trials]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
