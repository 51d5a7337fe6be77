"""What each layer takes in each precision, and what conversions between precisions take: on one machine, in one file.

The file is JSON. A table of another network, or of another version, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import onnx
from pydantic import Field, NonNegativeFloat, ValidationError

from avcompress.files import write_atomically
from avcompress.frozen import Model
from avcompress.prune.latency.measure import structure_digest
from avcompress.search.groups import Layout
from avcompress.spec import DataError, Precision

VERSION = 1
_MILLION = 1e6


class Conversion(Model):
    """Values that are in one precision, written in another."""

    of: Precision
    to: Precision
    call_ms: NonNegativeFloat = Field(description="of one conversion, however few values")
    million_ms: NonNegativeFloat = Field(description="beside, of every million values")


class PrecisionTable(Model):
    """The times of one network on one machine.

    A layer's time holds what is fused into it; `others_ms` is of all that belongs to no layer and is converted nowhere.
    """

    version: Literal[1] = 1
    network: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="sha256 of the structure of the float network with its batch norms folded"
    )
    estimate: bool = Field(description="computed from a machine's figures, not measured")
    machine: str = Field(description="that it is of: a processor, or the name of a target")
    backend: str = Field("", description="that it was measured on; empty of an estimate")
    versions: dict[str, str] = Field(default_factory=dict, description="of the runtimes")
    layers_ms: dict[str, dict[Precision, NonNegativeFloat]] = Field(description="by layer, then by precision")
    others_ms: NonNegativeFloat = Field(description="of the rest of the network")
    conversions: tuple[Conversion, ...] = Field(description="between any two of the precisions")

    @property
    def says(self) -> str:
        """Where the figures come from, for people."""
        return f"estimated for {self.machine}" if self.estimate else f"measured on {self.backend}, {self.machine}"

    def layer_ms(self, layer: str, precision: Precision) -> float:
        """What a layer takes; raises DataError where the table does not say."""
        found = self.layers_ms.get(layer, {}).get(precision)
        if found is None:
            raise DataError(
                f"latency table: expected what layer {layer!r} takes in {precision}, got nothing ({self.says}); "
                "measure it again with the precisions that may be chosen"
            )
        return found

    def convert_ms(self, of: Precision, to: Precision, values: float) -> float:
        """What writing so many values anew takes; 0 between equal precisions."""
        if of == to:
            return 0.0
        for known in self.conversions:
            if (known.of, known.to) == (of, to):
                return known.call_ms + known.million_ms * values / _MILLION
        raise DataError(
            f"latency table: expected what converting {of} to {to} takes, got nothing ({self.says}); measure it again "
            "with the precisions that may be chosen"
        )


def network_structure(model: onnx.ModelProto) -> str:
    """What a table knows a network by: its structure as `quant.plan.prepare` leaves it, for weights change no time."""
    return structure_digest(model)


def save_table(table: PrecisionTable, path: Path) -> None:
    """Write a table as JSON, whole or not at all."""
    write_atomically(path, table.model_dump_json(indent=1))


def load_table(path: Path, network: str, layout: Layout, precisions: Iterable[Precision]) -> PrecisionTable:
    """Read a table and hold it against a network.

    Args:
        path: of what `save_table` wrote, here or on another machine.
        network: by `network_structure`.
        layout: the network's: the table has to know all its layers ...
        precisions: ... in these.

    Raises DataError for anything else than a table of this version, of this network, with these layers.
    """
    try:
        table = PrecisionTable.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: expected a latency table, got: {error.strerror}; give the path of a file") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise DataError(
            f"{path}: expected a latency table of version {VERSION}, got at {place}: {first['msg']}; measure it again"
        ) from error
    if table.network != network:
        raise DataError(
            f"{path}: expected a latency table of this network ({network[:12]}), got one of another "
            f"({table.network[:12]}); measure it again"
        )
    _refuse_gaps(path, table, layout, tuple(precisions))
    return table


def _refuse_gaps(path: Path, table: PrecisionTable, layout: Layout, precisions: tuple[Precision, ...]) -> None:
    known = {precision for own in table.layers_ms.values() for precision in own}
    strange = [precision for precision in precisions if precision not in known]
    lost = [layer for group in layout.groups for layer in group.layers if layer not in table.layers_ms]
    if strange or lost:
        missing = f"precision {strange[0]}" if strange else f"layer {lost[0]!r} ({len(lost)} in all)"
        raise DataError(f"{path}: expected a latency table of every layer, got none of {missing}; measure it again")
