"""Where the times of a network come from: one seam for measuring here, files of other machines, and estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx

from avcompress.search.assignment import Assignment
from avcompress.search.groups import Layout
from avcompress.search.latency.table import PrecisionTable, load_table, network_structure
from avcompress.spec import Precision


@dataclass(frozen=True, eq=False)
class Subject:
    """A network whose times are asked for.

    Attributes:
        model: float, as `quant.plan.prepare` returns it.
        layout: its groups.
        choices: the precisions that each group may take, by its name; FP32 among them.
        assigned: makes the network in which groups have these precisions.
    """

    model: onnx.ModelProto
    layout: Layout
    choices: Mapping[str, Sequence[Precision]]
    assigned: Callable[[Assignment], onnx.ModelProto]

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """All that some group may take, in the order of their first mention."""
        return tuple(dict.fromkeys(precision for own in self.choices.values() for precision in own))


class LatencySource(Protocol):
    """What knows the times of networks."""

    def table(self, subject: Subject) -> PrecisionTable:
        """The times of every layer in each precision that it may take.

        Raises DataError for what does not fit the network, MissingError and EngineError where it is measured.
        """
        ...


@dataclass(frozen=True)
class FromFile:
    """A table that was measured before, here or on the target."""

    path: Path

    def table(self, subject: Subject) -> PrecisionTable:
        """Read it, and hold it against the network; see `load_table`."""
        return load_table(self.path, network_structure(subject.model), subject.layout, subject.precisions)
