"""Operators that move values without computing: reshape, slice, join, pad, gather."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avcompress.onnx_import.images import images_axis, place_in
from avcompress.onnx_import.operand import Call, OnnxNode, normalized


def reshape(x: Tensor, shape: tuple[int, ...], images: int | None) -> Tensor:
    """Reshape; the dimension `images` takes as many as there are, whatever it was in the ONNX file."""
    return x.reshape(shape) if images is None else x.reshape(*shape[:images], -1, *shape[images + 1 :])


def join(tensors: list[Tensor], axis: int, images: int) -> Tensor:
    """Concatenate what there is of each image and what is the same for all, which has one along `images`."""
    count = max(tensor.shape[images] for tensor in tensors)
    whole = [tensor.expand(*tensor.shape[:images], count, *tensor.shape[images + 1 :]) for tensor in tensors]
    return torch.cat(whole, axis)


def expand(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Broadcast against a shape, both ways."""
    return x.expand(np.broadcast_shapes(x.shape, shape))


def squeeze(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Drop dimensions of one."""
    return torch.squeeze(x, axes)


def unsqueeze(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Insert dimensions of one; the axes are those of the result, in ascending order."""
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def flatten(x: Tensor, axis: int) -> Tensor:
    """To two dimensions: those before the axis, and the rest."""
    return x.flatten(1) if axis == 1 else x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def gather(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Entries of x along an axis, in the indices' shape; negative indices count from the end."""
    wrapped = torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64)
    picked = torch.index_select(x, axis, wrapped.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """One entry along an axis for each position; negative indices count from the end."""
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64))


def gather_nd(x: Tensor, indices: Tensor) -> Tensor:
    """Entries of x named by the last dimension of the indices."""
    return x[tuple(indices.to(torch.int64).unbind(-1))]


def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, axis: int) -> Tensor:
    """A copy of x with one entry along an axis replaced for each position."""
    return torch.scatter(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices), updates)


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """A copy of x with the entries named by the last dimension of the indices replaced."""
    return x.index_put(tuple(indices.unbind(-1)), updates)


def pick(x: Tensor, indices: tuple[tuple[int, ...], ...]) -> Tensor:
    """Slices with any step, as the indices kept along each dimension; an empty tuple keeps all."""
    for axis, kept in enumerate(indices):
        if kept:
            x = torch.index_select(x, axis, torch.tensor(kept, device=x.device))
    return x


def pad(x: Tensor, pads: tuple[tuple[int, int], ...], mode: str, value: float) -> Tensor:
    """Pad, or crop where negative; `pads` are before and after for each dimension."""
    if mode == "constant":
        return F.pad(x, [n for pair in reversed(pads) for n in pair], value=value)
    for axis, (before, after) in enumerate(pads):
        if before or after:
            wide = (max(before, 0), max(after, 0))
            positions = np.pad(np.arange(x.shape[axis]), wide, mode=mode)  # type: ignore[call-overload]
            kept = positions[max(-before, 0) : len(positions) - max(-after, 0)]
            x = torch.index_select(x, axis, torch.tensor(kept, device=x.device))
    return x


def depth_to_space(x: Tensor, block: int, depth_first: bool) -> Tensor:
    """Channels become blocks of pixels; by depth, column, row (`depth_first`), or as pixel shuffle does."""
    n, c, h, w = x.shape
    if not depth_first:
        return F.pixel_shuffle(x, block)
    blocks = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // block**2, h * block, w * block)


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """Blocks of pixels become channels: the position in the block first, then the channel."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * block**2, h // block, w // block)


def top_k(x: Tensor, k: int, axis: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The k extreme values along an axis, and their indices."""
    found = torch.topk(x, k, axis, largest)
    return found.values, found.indices


# --- how nodes become calls


def _lower_reshape(node: OnnxNode) -> Call:
    asked = node.integers(1) or []
    zeros = not node.attribute("allowzero", 0)
    shape = [node.x.shape[i] if n == 0 and zeros else n for i, n in enumerate(asked)]
    if -1 in shape:
        rest = int(np.prod([n for n in shape if n != -1], dtype=np.int64))
        shape[shape.index(-1)] = int(np.prod(node.x.shape, dtype=np.int64)) // max(rest, 1)
    return Call(reshape, (node.x, tuple(shape), place_in(node.x, shape)))


def _lower_flatten(node: OnnxNode) -> Call:
    axis, rank = int(node.attribute("axis", 1)), node.x.rank
    return Call(flatten, (node.x, axis % rank if axis < 0 else axis))


def _lower_transpose(node: OnnxNode) -> Call:
    order = node.attribute("perm", range(node.x.rank)[::-1])
    return Call(torch.permute, (node.x, tuple(int(v) for v in order)))


def _lower_squeeze(node: OnnxNode) -> Call:
    axes = node.integers(1, "axes")
    if axes is None:
        axes = [axis for axis, size in enumerate(node.x.shape) if size == 1]
    return Call(squeeze, (node.x, normalized(axes, node.x.rank)))


def _lower_unsqueeze(node: OnnxNode) -> Call:
    axes = node.integers(1, "axes") or []
    return Call(unsqueeze, (node.x, tuple(sorted(normalized(axes, node.x.rank + len(axes))))))


def _lower_expand(node: OnnxNode) -> Call:
    return Call(expand, (node.x, tuple(node.integers(1) or ())))


def _lower_tile(node: OnnxNode) -> Call:
    return Call(torch.tile, (node.x, tuple(node.integers(1) or ())))


def _lower_concat(node: OnnxNode) -> Call:
    axis, found = node.axis(0), {images_axis(operand) for operand in node.inputs if operand is not None}
    (images, *more) = found - {None} or {None}
    if images is None or more or None not in found or images == axis:
        return Call(torch.cat, (list(node.inputs), axis))
    return Call(join, (list(node.inputs), axis, images))


def _lower_split(node: OnnxNode) -> Call:
    axis, parts = node.axis(0), node.attribute("num_outputs", len(node.proto.output))
    size = node.x.shape[axis]
    sizes = node.integers(1, "split")
    if sizes is None:
        each = -(-size // parts)
        sizes = [min(each, size - each * i) for i in range(parts)]
    return Call(torch.split, (node.x, sizes, axis))


def _lower_slice(node: OnnxNode) -> Call:
    starts, ends = node.integers(1, "starts") or [], node.integers(2, "ends") or []
    axes = node.integers(3, "axes") or list(range(len(starts)))
    steps = node.integers(4) or [1] * len(starts)
    slices = [slice(None)] * node.x.rank
    for axis, start, end, step in zip(normalized(axes, node.x.rank), starts, ends, steps, strict=True):
        slices[axis] = _bounded(start, end, step, node.x.shape[axis])
    if all((cut.step or 1) > 0 for cut in slices):
        return Call(operator.getitem, (node.x, tuple(slices)))
    kept = (
        tuple(range(size))[cut] if cut != slice(None) else () for cut, size in zip(slices, node.x.shape, strict=True)
    )
    return Call(pick, (node.x, tuple(kept)))


def _bounded(start: int, end: int, step: int, size: int) -> slice:
    """A Python slice of the same values, without the exporters' huge numbers."""
    if step < 0 and end < -size:
        return slice(start, None, step)
    begin, stop, _ = slice(start, end, step).indices(size)
    if (begin, stop, step) == (0, size, 1):  # of several images, too
        return slice(None)
    return slice(begin, stop if stop >= 0 else None, step)


def _lower_gather(node: OnnxNode) -> Call:
    indices, axis = node.required(1), node.axis(0)
    if indices.value is not None and indices.rank == 0:
        return Call(torch.select, (node.x, axis, int(indices.value) % node.x.shape[axis]))
    return Call(gather, (node.x, indices, axis))


def _lower_gather_elements(node: OnnxNode) -> Call:
    return Call(gather_elements, (node.x, node.required(1), node.axis(0)))


def _lower_gather_nd(node: OnnxNode) -> Call:
    _refuse(node, "batch_dims", 0)
    return Call(gather_nd, (node.x, node.required(1)))


def _lower_scatter_elements(node: OnnxNode) -> Call:
    _refuse(node, "reduction", "none")
    return Call(scatter_elements, (node.x, node.required(1), node.required(2), node.axis(0)))


def _lower_scatter_nd(node: OnnxNode) -> Call:
    _refuse(node, "reduction", "none")
    return Call(scatter_nd, (node.x, node.required(1), node.required(2)))


def _refuse(node: OnnxNode, name: str, usual: int | str) -> None:
    """Raise ModelError when an attribute has another than its usual value."""
    if node.attribute(name, usual) != usual:
        raise node.error(f"{name}={usual}", str(node.attribute(name)), "rewrite that operation before the export")


def _lower_pad(node: OnnxNode) -> Call:
    mode, rank = node.attribute("mode", "constant"), node.x.rank
    amounts, axes = node.integers(1, "pads") or [], normalized(node.integers(3) or range(rank), rank)
    value = node.constant(2)
    pads = [(0, 0)] * rank
    for axis, before, after in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        pads[axis] = (before, after)
    number = node.attribute("value", 0.0) if value is None else value.item()
    return Call(pad, (node.x, tuple(pads), mode, number))


def _lower_depth_to_space(node: OnnxNode) -> Call:
    return Call(depth_to_space, (node.x, node.attribute("blocksize"), node.attribute("mode", "DCR") == "DCR"))


def _lower_space_to_depth(node: OnnxNode) -> Call:
    return Call(space_to_depth, (node.x, node.attribute("blocksize")))


def _lower_top_k(node: OnnxNode) -> Call:
    (k,) = node.integers(1) or [1]
    return Call(top_k, (node.x, k, node.axis(-1), bool(node.attribute("largest", 1))))


def _lower_trilu(node: OnnxNode) -> Call:
    (k,) = node.integers(1) or [0]
    return Call(torch.triu if node.attribute("upper", 1) else torch.tril, (node.x, k))


def _lower_einsum(node: OnnxNode) -> Call:
    return Call(torch.einsum, (node.attribute("equation"), *node.inputs))


LOWERINGS: dict[str, Callable[[OnnxNode], Call]] = {
    "Concat": _lower_concat,
    "DepthToSpace": _lower_depth_to_space,
    "Einsum": _lower_einsum,
    "Expand": _lower_expand,
    "Flatten": _lower_flatten,
    "Gather": _lower_gather,
    "GatherElements": _lower_gather_elements,
    "GatherND": _lower_gather_nd,
    "Pad": _lower_pad,
    "Reshape": _lower_reshape,
    "ScatterElements": _lower_scatter_elements,
    "ScatterND": _lower_scatter_nd,
    "Slice": _lower_slice,
    "SpaceToDepth": _lower_space_to_depth,
    "Split": _lower_split,
    "Squeeze": _lower_squeeze,
    "Tile": _lower_tile,
    "TopK": _lower_top_k,
    "Transpose": _lower_transpose,
    "Trilu": _lower_trilu,
    "Unsqueeze": _lower_unsqueeze,
}
