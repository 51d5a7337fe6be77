"""What an engine does, held against what the recipe planned, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from typing_extensions import assert_never

from avcompress.spec import LayerPlan, Precision
from engines.layer_map.layer import UNKNOWN

_FLOATS = frozenset({"fp32", "fp16", "bf16", "float"})


@dataclass(frozen=True)
class Mismatch:
    """A weighted layer that does not run as the recipe planned; `message` is for people."""

    name: str
    planned: str
    got: str
    message: str


def compare(plan: Sequence[LayerPlan], precisions: Mapping[str, str]) -> tuple[Mismatch, ...]:
    """Hold what the engine does against what the recipe planned, layer by layer."""
    mismatches = (_mismatch(layer, precisions.get(layer.name, UNKNOWN)) for layer in plan)
    return tuple(mismatch for mismatch in mismatches if mismatch is not None)


def as_planned(planned: Precision, got: str) -> bool:
    """Whether an engine that tells this type for a layer runs it as planned.

    Weights that are stored as integers are multiplied in float. Dynamic quantization may be computed either way: the
    numbers are the same.
    """
    match planned:
        case "int8" | "fp8" | "fp16" | "bf16" | "fp32":
            return got == planned
        case "float" | "int8 weights" | "int4 weights":
            return got in _FLOATS
        case "int8 dynamic":
            return got == "int8" or got in _FLOATS
        case _:
            assert_never(planned)


def _mismatch(layer: LayerPlan, got: str) -> Mismatch | None:
    if as_planned(layer.precision, got):
        return None
    if got == UNKNOWN:
        message = f"{layer.name} ({layer.op}): planned {layer.precision}, and the engine does not say what it runs in"
    else:
        message = f"{layer.name} ({layer.op}): planned {layer.precision}, but it runs in {got}"
    return Mismatch(layer.name, layer.precision, got, message)
