"""What is known of each tool on one recipe, and how people read it: a Markdown table, and notes below it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FLOAT = "fp32"
"""The name of the row of the float network."""
NOISE = 0.002
"""Accuracies of one network under two graph optimization levels differ by less, unless Q/DQ are computed otherwise."""


@dataclass(frozen=True)
class Cost:
    """Of one quantization: wall and CPU seconds, of which imports; the most memory its process held."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    import_seconds: float | None = None


@dataclass(frozen=True)
class Row:
    """One tool on one recipe.

    Attributes:
        name: which tool and setting, as `--only` takes it.
        title: the same for people.
        cost: None where nothing was run.
        judged: what judge_network.py found; empty where there is no network.
        failure: why there is no network; empty where there is one.
    """

    name: str
    title: str
    cost: Cost | None = None
    judged: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """All the rows of one recipe; the first one is the float network with the cost of one plain pass."""

    recipe: str
    images: int
    shape: tuple[int, ...]
    metrics: tuple[str, ...]
    layers: int
    rows: tuple[Row, ...]

    def float_row(self) -> Row | None:
        """The float network's row, where it was asked for and ran."""
        return next((row for row in self.rows if row.name == FLOAT and row.cost), None)


def markdown(comparison: Comparison) -> str:
    """A title, the table, and what its cells have no room for."""
    columns = [
        "tool",
        *comparison.metrics,
        "MACs in INT8",
        "layers in INT8",
        "time s",
        "CPU s",
        "× FP32 pass",
        "peak MB",
        "TensorRT-RTX",
        "INT8 in its log",
    ]
    size = "x".join(map(str, comparison.shape[2:]))
    lines = [
        f"### {comparison.recipe}: {comparison.images} calibration images of {size}",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(cells(row, comparison))} |" for row in comparison.rows),
        *notes(comparison),
    ]
    return "\n".join(lines) + "\n"


def cells(row: Row, comparison: Comparison) -> list[str]:
    """The row as the table shows it."""
    judged, cost = row.judged, row.cost
    plain = comparison.float_row()
    accuracy = judged.get("accuracy", {})
    ratio = cost.seconds / plain.cost.seconds if cost and plain and plain.cost else None
    return [
        row.title,
        *(shown(accuracy.get(metric), ".4f") for metric in comparison.metrics),
        shown(judged.get("int8_macs"), ".1%"),
        of_all(judged.get("int8_layers"), comparison.layers),
        shown(cost.seconds if cost else None, ".1f"),
        shown(cost.cpu_seconds if cost else None, ".1f"),
        shown(ratio, ".1f"),
        shown(cost.peak_mb if cost else None, ",.0f"),
        judged.get("rtx", "failed" if row.failure else "-"),
        of_all(judged.get("rtx_int8_layers"), comparison.layers),
    ]


def shown(value: float | None, form: str) -> str:
    """The number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def of_all(count: int | None, layers: int) -> str:
    """`74 of 113`, or a dash."""
    return "-" if count is None else f"{count} of {layers}"


def notes(comparison: Comparison) -> list[str]:
    """One item for each failure, refusal, and accuracy that depends on ONNX Runtime's graph optimizations."""
    found = [note for row in comparison.rows for note in row_notes(row, comparison.metrics)]
    return ["", *(f"- {note}" for note in found)] if found else []


def row_notes(row: Row, metrics: Sequence[str]) -> list[str]:
    """What the row's cells have no room for."""
    judged = row.judged
    found = [f"{row.title}: failed: {row.failure}"] if row.failure else []
    if judged.get("rtx_reason"):
        found.append(f"{row.title}: TensorRT-RTX: {judged['rtx_reason']}")
    if judged.get("accuracy_error"):
        found.append(f"{row.title}: ONNX Runtime: {judged['accuracy_error']}")
    off, on = judged.get("accuracy", {}), judged.get("accuracy_optimized", {})
    metric = metrics[0]
    if metric in off and metric in on and abs(on[metric] - off[metric]) > NOISE:
        found.append(f"{row.title}: {metric} {on[metric]:.4f} with ONNX Runtime's graph optimizations on")
    if judged.get("renamed_layers"):
        found.append(f"{row.title}: {judged['renamed_layers']} INT8 layers under names the float network lacks")
    return found
