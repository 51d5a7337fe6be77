"""Normalizations and softmax: those that look at several channels at once see fewer after a removal."""

from __future__ import annotations

from collections.abc import Iterable

from avcompress.prune.labels import Labels, expanded, units, varying
from avcompress.prune.rules.step import Part, Rule, Step, none


def _by_channel(step: Step, labels: Labels, indices: Iterable[int]) -> Labels:
    """Tie vectors, one value a channel, to the channels along axis 1."""
    shape = step.shape(0)
    ones = (1,) * (len(shape) - 2)
    parts = [Part(labels, shape)]
    for operand in (step.node.required(index) for index in indices):
        own = step.part_of(operand)
        parts.append(Part(own.labels.reshape(1, -1, *ones), (1, *own.shape, *ones), own.constant))
    return step.join(parts)


def _batch_norm(step: Step) -> tuple[Labels, ...]:
    return (_by_channel(step, step.labels(0), range(1, 5)),)


def _instance_norm(step: Step) -> tuple[Labels, ...]:
    """Channels alone (1, C, H, W), or groups of them (1, G, C / G * H * W), as group normalization is exported."""
    labels = step.labels(0)
    inner = [axis for axis in varying(labels) if axis > 1]
    if inner:
        others = max(units(labels, axis) for axis in inner)
        # Whole groups, if that leaves as much to choose from: the statistics of the others stay as they are.
        kept = 1 if units(labels, 1) >= others else max(inner, key=lambda axis: units(labels, axis))
        labels = step.atoms.along_one_axis(labels, step.name, kept)
        if kept > 1:
            step.sees_fewer(labels)
    return (_by_channel(step, labels, (1, 2)),)


def _group_norm(step: Step) -> tuple[Labels, ...]:
    part, groups = step.part(0), int(step.node.attribute("num_groups"))
    others = [axis for axis in range(len(part.shape)) if axis != 1]
    labels = expanded(step.atoms.uniform(part.labels, others, step.name), 1, part.shape[1]).reshape(groups, -1)
    wide = groups >= labels.shape[1]
    step.atoms.uniform(labels, (1,) if wide else (0,), step.name)
    if not wide:
        step.sees_fewer(labels)
    flat = labels.reshape(1, -1, *(1,) * (len(part.shape) - 2))
    if step.node.required(1).shape[0] == part.shape[1]:
        return (_by_channel(step, flat, (1, 2)),)
    for index in (1, 2):  # one scale and bias for each group, as opset 18 has them
        own = step.part(index).labels
        step.atoms.unite(own, labels[:, 0] if wide else own[:1], step.name)
    return (flat,)


def _layer_norm(step: Step) -> tuple[Labels, ...]:
    labels, axis = step.labels(0), step.node.axis(-1)
    if any(a >= axis for a in varying(labels)):
        step.sees_fewer(labels)
    parts = [step.part_of(operand) for operand in step.node.inputs if operand is not None]
    return (step.join(parts), *(none(step.node.x.rank) for _ in step.node.proto.output[1:]))


def _across_channels(step: Step) -> tuple[Labels, ...]:
    labels = step.labels(0)
    axis = 1 if step.node.kind == "LRN" else step.node.axis(-1)
    if labels.shape[axis] > 1 and step.node.kind == "LRN":
        step.sees_fewer(labels)
    return (labels,)


def _softmax(step: Step) -> tuple[Labels, ...]:
    axis, rank = step.node.axis(-1 if step.node.opset >= 13 else 1), step.node.x.rank
    axes = range(axis, rank) if step.node.opset < 13 else (axis,)
    labels = step.aside(step.labels(0), axes)
    if any(labels.shape[a] > 1 for a in axes):
        step.stays("runs over them", labels)
        return (none(labels.ndim),)
    return (labels,)


RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _across_channels,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax,
    "LpNormalization": _across_channels,
    "RMSNormalization": _layer_norm,
    "Softmax": _softmax,
}
