"""How the labels of channels pass through each operator; one file a kind of operator."""

from __future__ import annotations

from avcompress.prune.labels import Labels
from avcompress.prune.rules import contraction, moving, normalizing, pointwise, reducing, weighted
from avcompress.prune.rules.step import Labelling, Rule, Step, none

_RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **moving.RULES,
    **contraction.RULES,
    **weighted.RULES,
    **normalizing.RULES,
    **reducing.RULES,
}


def propagate(step: Step) -> tuple[Labels, ...]:
    """The labels of a node's outputs; channels that meet an operator without a rule stay."""
    rule = _RULES.get(step.node.kind)
    if rule is not None and step.node.proto.domain in {"", "ai.onnx"}:
        return rule(step)
    computed = [operand for operand in step.node.inputs if operand is not None and operand.value is None]
    step.stays("reads them, and pruning has no rule for it", *(step.part_of(operand).labels for operand in computed))
    return tuple(none(len(step.shape(index))) for index in range(len(step.node.proto.output)))


__all__ = ["Labelling", "Step", "none", "propagate"]
