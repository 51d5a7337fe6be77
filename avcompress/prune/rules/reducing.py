"""Reductions and pools."""

from __future__ import annotations

import numpy as np

from avcompress.onnx_import.operand import normalized
from avcompress.prune.labels import Labels, varying
from avcompress.prune.rules.step import Rule, Step

_SUMS = frozenset({"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})
"""Where a channel of zeros counts as none."""
_REDUCTIONS = (
    frozenset({"ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"}) | _SUMS
)


def _reduction(step: Step) -> tuple[Labels, ...]:
    node = step.node
    axes = normalized(node.integers(1, "axes") or range(node.x.rank), node.x.rank)
    return (_reduced(step, axes, bool(node.attribute("keepdims", 1)), node.kind in _SUMS),)


def _reduced(step: Step, axes: tuple[int, ...], keep: bool, exact: bool) -> Labels:
    labels = step.aside(step.labels(0), axes)
    if any(axis in axes for axis in varying(labels)):
        if not exact:
            step.sees_fewer(labels)
        return np.full((1,) * len(step.shape(0)), step.atoms.summary(labels))
    shape = [size for axis, size in enumerate(labels.shape) if keep or axis not in axes]
    return labels.reshape(shape)


def _arg(step: Step) -> tuple[Labels, ...]:
    axis = step.node.axis(0)
    labels = step.aside(step.labels(0), [axis])
    if labels.shape[axis] > 1:
        step.stays("picks among them", labels)
    return (_reduced(step, (axis,), bool(step.node.attribute("keepdims", 1)), exact=True),)


def _cumulative(step: Step) -> tuple[Labels, ...]:
    (axis,) = normalized(step.node.integers(1) or [0], step.node.x.rank)
    labels = step.aside(step.labels(0), [axis])
    if labels.shape[axis] > 1:
        step.stays("adds them up one after the other", labels)
    return (labels,)


def _pool(step: Step) -> tuple[Labels, ...]:
    return (step.atoms.uniform(step.labels(0), range(2, step.node.x.rank), step.name),)


RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "ArgMax": _arg,
    "ArgMin": _arg,
    "AveragePool": _pool,
    "CumSum": _cumulative,
    "GlobalAveragePool": _pool,
    "GlobalMaxPool": _pool,
    "MaxPool": _pool,
}
