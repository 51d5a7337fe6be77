"""Operators that move values without computing: their labels move in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from avcompress.onnx_import.operand import OnnxNode, normalized
from avcompress.prune.labels import Labels, expanded
from avcompress.prune.rules.step import Part, Rule, Step, none

Block = tuple[tuple[int, ...], tuple[int, ...]]
"""Neighbouring axes before and after a reshape that hold the same positions."""


def reshape_blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[Block]:
    """Take a reshape apart: (1, C, H, W) to (1, 2, C/2, H * W) is (1) to (1), (C) to (2, C/2), (H, W) to (H * W)."""
    i = j = 0
    while i < len(before) or j < len(after):
        start, stop = i, j
        left = right = 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        yield tuple(range(start, i)), tuple(range(stop, j))


def reshaped(labels: Labels, before: tuple[int, ...], after: tuple[int, ...]) -> Labels:
    """The labels after a reshape; blocks of axes along which they do not vary keep size 1."""
    wide, shape = labels, list[int]()
    for old, new in reshape_blocks(before, after):
        if any(labels.shape[axis] > 1 for axis in old):
            for axis in old:
                wide = expanded(wide, axis, before[axis])
            shape += [after[axis] for axis in new]
        else:
            shape += [1] * len(new)
    return wide.reshape(shape)


def _reshape(step: Step) -> tuple[Labels, ...]:
    part = step.part(0)
    return (reshaped(part.labels, part.shape, step.shape(0)),)


def _transpose(step: Step) -> tuple[Labels, ...]:
    order = step.node.attribute("perm", range(step.node.x.rank)[::-1])
    return (step.labels(0).transpose([int(axis) for axis in order]),)


def _concat(step: Step) -> tuple[Labels, ...]:
    parts = [step.part_of(operand) for operand in step.node.inputs if operand is not None]
    axis = step.node.axis(0)
    arrays = [expanded(part.labels, axis, part.shape[axis]) for part in parts]
    sides = np.broadcast_shapes(*((*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in arrays))
    wide = [np.broadcast_to(a, (*sides[:axis], a.shape[axis], *sides[axis + 1 :])) for a in arrays]
    return (np.concatenate(wide, axis),)


def _split(step: Step) -> tuple[Labels, ...]:
    labels, axis, sizes = step.labels(0), step.node.axis(0), split_sizes(step.node)
    if labels.shape[axis] == 1:
        return (labels,) * len(sizes)
    return tuple(np.split(labels, np.cumsum(sizes)[:-1], axis))


def split_sizes(node: OnnxNode) -> list[int]:
    """How long the parts of a Split are."""
    size, parts = node.x.shape[node.axis(0)], int(node.attribute("num_outputs", len(node.proto.output)))
    each = -(-size // parts)
    return node.integers(1, "split") or [min(each, size - each * i) for i in range(parts)]


def slices_of(node: OnnxNode) -> dict[int, slice]:
    """What a Slice takes along each axis that it names."""
    starts, ends = node.integers(1, "starts") or [], node.integers(2, "ends") or []
    axes = normalized(node.integers(3, "axes") or range(len(starts)), node.x.rank)
    steps = node.integers(4) or [1] * len(starts)
    found: dict[int, slice] = {}
    for axis, start, end, stride in zip(axes, starts, ends, steps, strict=True):
        begin, stop, _ = slice(start, end, stride).indices(node.x.shape[axis])
        found[axis] = slice(begin, stop if stop >= 0 else None, stride)
    return found


def _slice(step: Step) -> tuple[Labels, ...]:
    labels = step.labels(0)
    cuts = {axis: cut for axis, cut in slices_of(step.node).items() if labels.shape[axis] > 1}
    return (labels[tuple(cuts.get(axis, slice(None)) for axis in range(labels.ndim))],)


def _gather(step: Step) -> tuple[Labels, ...]:
    labels, axis, indices = step.labels(0), step.node.axis(0), step.node.required(1)
    if labels.shape[axis] > 1 and indices.value is not None:
        return (labels.take(np.asarray(indices.value, np.int64), axis),)
    if labels.shape[axis] > 1:
        step.stays("picks among them by computed indices", labels)
        return (none(len(step.shape(0))),)
    return (labels.reshape(*labels.shape[:axis], *(1,) * indices.rank, *labels.shape[axis + 1 :]),)


def _expand(step: Step) -> tuple[Labels, ...]:
    shape = step.shape(0)
    part = step.part(0).aligned(len(shape))
    return (_repeated(step, part, shape),)


def _tile(step: Step) -> tuple[Labels, ...]:
    part, shape = step.part(0), step.shape(0)
    repeats = [new // max(old, 1) for old, new in zip(part.shape, shape, strict=True)]
    tiled = np.tile(part.labels, [n if size > 1 else 1 for n, size in zip(repeats, part.labels.shape, strict=True)])
    return (_repeated(step, Part(tiled, part.shape), shape),)


def _repeated(step: Step, part: Part, shape: tuple[int, ...]) -> Labels:
    """The labels of a tensor that was made larger along axes of one; where it has no channels, copies may go freely."""
    grown = [axis for axis, size in enumerate(shape) if part.shape[axis] == 1 and size > 1]
    if part.labels.size > 1 or not grown:
        return part.labels
    return step.atoms.fresh(tuple(size if axis in grown else 1 for axis, size in enumerate(shape)))


def _pad(step: Step) -> tuple[Labels, ...]:
    labels, node = step.labels(0), step.node
    amounts, mode = node.integers(1, "pads") or [], node.attribute("mode", "constant")
    axes = normalized(node.integers(3) or range(node.x.rank), node.x.rank)
    for axis, before, after in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        if labels.shape[axis] == 1 or not (before or after):
            continue
        if mode != "constant":
            step.stays("repeats some of them", labels)
            return (none(labels.ndim),)
        labels = _padded(step, labels, axis, before, after)
    return (labels,)


def _padded(step: Step, labels: Labels, axis: int, before: int, after: int) -> Labels:
    """New channels of a constant around the others, which may go, too; fewer of them where an amount is negative."""
    kept = np.take(labels, range(max(-before, 0), labels.shape[axis] - max(-after, 0)), axis)

    def added(count: int) -> Labels:
        shape = [1] * labels.ndim
        shape[axis] = max(count, 0)
        new = step.atoms.fresh(tuple(shape))
        return np.broadcast_to(new, (*kept.shape[:axis], max(count, 0), *kept.shape[axis + 1 :]))

    return np.concatenate([added(before), kept, added(after)], axis)


def _depth_to_space(step: Step) -> tuple[Labels, ...]:
    node, block = step.node, int(step.node.attribute("blocksize"))
    part = step.part(0)
    labels = expanded(step.atoms.uniform(part.labels, (0, 2, 3), step.name), 1, part.shape[1]).reshape(-1)
    if node.attribute("mode", "DCR") == "DCR":
        grid = labels.reshape(block**2, -1).T
    else:
        grid = labels.reshape(-1, block**2)
    return (step.atoms.uniform(grid, (1,), step.name).reshape(1, -1, 1, 1),)


def _space_to_depth(step: Step) -> tuple[Labels, ...]:
    part, block = step.part(0), int(step.node.attribute("blocksize"))
    labels = step.atoms.uniform(part.labels, (0, 2, 3), step.name)
    return (np.tile(labels, (1, block**2, 1, 1)) if labels.shape[1] > 1 else labels,)


def _resize(step: Step) -> tuple[Labels, ...]:
    part, after = step.part(0), step.shape(0)
    changed = [axis for axis, size in enumerate(after) if size != part.shape[axis]]
    if any(part.labels.shape[axis] > 1 for axis in changed):
        step.stays("resizes along them", part.labels)
        return (none(len(after)),)
    return (part.labels,)


def _grid_sample(step: Step) -> tuple[Labels, ...]:
    step.stays("takes them for coordinates", step.labels(1))
    return (step.atoms.uniform(step.labels(0), range(2, step.node.x.rank), step.name),)


def _trilu(step: Step) -> tuple[Labels, ...]:
    labels = step.labels(0)
    if max(labels.shape[-2:]) > 1:
        step.stays("cuts a triangle out of them", labels)
        return (none(labels.ndim),)
    return (labels,)


RULES: dict[str, Rule] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "GridSample": _grid_sample,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _reshape,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _reshape,
    "Upsample": _resize,
}
