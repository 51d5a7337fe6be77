"""Operators that work on each value alone: positions that meet go together."""

from __future__ import annotations

from avcompress.onnx_import import pointwise
from avcompress.prune.labels import Labels
from avcompress.prune.rules.step import Rule, Step

_FIRST_ONLY = frozenset({"CastLike", "Clip"})  # the rest is a type, or a number for all values


def _pointwise(step: Step) -> tuple[Labels, ...]:
    operands = [operand for operand in step.node.inputs if operand is not None]
    used = operands[:1] if step.node.kind in _FIRST_ONLY else operands
    return (step.join([step.part_of(operand) for operand in used]),)


RULES: dict[str, Rule] = dict.fromkeys(pointwise.LOWERINGS, _pointwise)
