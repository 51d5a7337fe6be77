"""What is known of each way to prune on one task, and how people read it: a Markdown table, and notes below it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peers.peer_rows import shown

DENSE, OURS = "dense", "ours"
BEHIND = 0.001
"""How far ours may stay below the best peer: less is noise."""
COLUMNS = (
    "arm",
    "latency ms",
    "× dense",
    "× ours",
    "parameters",
    "MACs",
    "{metric} pruned",
    "{metric} recovered",
    "pruning s",
    "recovery s",
    "steps",
)
Row = Mapping[str, Any]


def read_rows(folder: Path, arms: Sequence[str]) -> list[Row]:
    """The results found in a task's folder, in the order of the arms."""
    paths = [folder / arm / "result.json" for arm in (DENSE, *arms)]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def markdown(task: str, metric: str, rows: Sequence[Row]) -> str:
    """A title, the table, and what its cells have no room for."""
    names = [column.format(metric=metric) for column in COLUMNS]
    notes = [f"- {row['arm']}: {row['note']}" for row in rows if row.get("note")]
    lines = [
        f"### {task}",
        "",
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
        *(["", *notes] if notes else []),
    ]
    return "\n".join(lines) + "\n"


def cells(row: Row) -> list[str]:
    """The row as the table shows it."""
    return [
        row["arm"],
        shown(row.get("latency_ms"), ".2f"),
        shown(row.get("of_dense"), ".3f"),
        shown(row.get("of_ours"), ".3f"),
        shown(row.get("parameters"), ",d"),
        shown(row.get("macs"), ",d"),
        shown(row.get("pruned"), ".4f"),
        shown(row.get("recovered"), ".4f"),
        shown(row.get("pruning_s"), ".0f"),
        shown(row.get("recovery_s"), ".0f"),
        shown(row.get("steps"), "d"),
    ]


def behind(rows: Sequence[Row]) -> float | None:
    """How far ours is below the best peer after recovery, negative above it; None where one of them is not there."""
    after = {row["arm"]: row["recovered"] for row in rows if row.get("recovered") is not None}
    ours = after.pop(OURS, None)
    after = {arm: value for arm, value in after.items() if not arm.startswith(OURS)}
    return None if ours is None or not after else max(after.values()) - ours
