"""The sizes that nodes carry in constants and attributes, rewritten for tensors that became smaller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.onnx_import.operand import OnnxNode, normalized
from avcompress.prune.kept import Kept, Mask
from avcompress.prune.rules.moving import slices_of, split_sizes
from avcompress.spec import Array
from engines.onnx_graph import fresh, initializers, use_counts

_TO_THE_END = 2**31 - 1


class Constants:
    """The initializers of a network, of which each node gets its own when one changes."""

    def __init__(self, network: onnx.ModelProto) -> None:
        self._network = network
        self._taken = {*initializers(network), *use_counts(network)}
        self._taken |= {output for node in network.graph.node for output in node.output}

    def fresh(self, name: str) -> str:
        """A name that nothing has."""
        return fresh(name, self._taken)

    def set_(self, node: onnx.NodeProto, index: int, value: Array) -> None:
        """Let an input of a node be a new constant."""
        while len(node.input) <= index:
            node.input.append("")
        old = node.input[index] or f"{node.output[0]}.sizes"
        node.input[index] = self.fresh(old)
        self._network.graph.initializer.append(numpy_helper.from_array(value, node.input[index]))


@dataclass(frozen=True, eq=False)
class Edit:
    """One node to change.

    Attributes:
        node: as it was, with its operands.
        new: a copy, to be changed.
        kept: what is left of each tensor.
        constants: of the network.
        before: nodes that have to come before it; to be added to.
    """

    node: OnnxNode
    new: onnx.NodeProto
    kept: Kept
    constants: Constants
    before: list[onnx.NodeProto] = field(default_factory=list)

    def set_input_(self, index: int, values: Array | Sequence[int]) -> None:
        """Let an input be a constant of its own."""
        self.constants.set_(self.new, index, np.array(values, np.int64))

    def set_attribute_(self, name: str, value: int | Sequence[int]) -> None:
        """Give an attribute another value."""
        self.drop_attribute_(name)
        self.new.attribute.append(helper.make_attribute(name, value))

    def drop_attribute_(self, name: str) -> None:
        """Remove an attribute, if it is there."""
        others = [attribute for attribute in self.new.attribute if attribute.name != name]
        del self.new.attribute[:]
        self.new.attribute.extend(others)

    @property
    def size_after(self) -> tuple[int, ...]:
        """The shape of the first output after the removal."""
        return self.kept.shape(self.new.output[0])

    @property
    def size_before(self) -> tuple[int, ...]:
        """The shape of the first input after the removal."""
        return self.kept.shape(self.node.x.name)


def resize_(node: OnnxNode, kept: Kept, constants: Constants) -> list[onnx.NodeProto]:
    """The node for the smaller tensors, after what has to come before it; new constants are added to the network."""
    change = _CHANGES.get(node.kind)
    tensors = [o.name for o in node.inputs if o is not None and o.value is None] + [n for n in node.proto.output if n]
    if change is None or all(kept.axis(name) is None for name in tensors):
        return [node.proto]
    new = onnx.NodeProto()
    new.CopyFrom(node.proto)
    edit = Edit(node, new, kept, constants)
    change(edit)
    return [*edit.before, new]


def _reshape_(edit: Edit) -> None:
    """What the shape says by 0 (as it was) or -1 (the rest) stays so where it still holds."""
    before, after = edit.size_before, edit.size_after
    copied = not edit.node.attribute("allowzero", 0)
    sizes = [
        n if n == -1 or (n == 0 and copied and before[i] == size) else size
        for i, (n, size) in enumerate(zip(edit.node.integers(1) or [], after, strict=True))
    ]
    edit.set_input_(1, sizes)


def _squeeze_(edit: Edit) -> None:
    """Without axes it drops all that are of one: a single channel that is left would be."""
    node = edit.node
    if node.integers(1, "axes") is not None:
        return
    axes = [axis for axis, size in enumerate(node.x.shape) if size == 1]
    if node.opset < 13:
        edit.set_attribute_("axes", axes)
    else:
        edit.set_input_(1, axes)


def _expand_(edit: Edit) -> None:
    asked = edit.node.integers(1) or []
    after = edit.size_after[len(edit.size_after) - len(asked) :]
    edit.set_input_(1, [n if n == 1 else size for n, size in zip(asked, after, strict=True)])


def _tile_(edit: Edit) -> None:
    edit.set_input_(1, [after // before for before, after in zip(edit.size_before, edit.size_after, strict=True)])


def _split_(edit: Edit) -> None:
    stay = edit.kept.along(edit.node.x.name, edit.node.axis(0))
    if stay is None:
        return
    ends = np.cumsum(split_sizes(edit.node))[:-1]
    sizes = [int(part.sum()) for part in np.split(stay, ends)]
    edit.drop_attribute_("num_outputs")
    if edit.node.opset < 13:
        edit.set_attribute_("split", sizes)
    else:
        edit.set_input_(1, sizes)


def _slice_(edit: Edit) -> None:
    """Other bounds, or where it has a step a Gather before it of what is left of the positions that it takes."""
    name = edit.node.x.name
    axis = edit.kept.axis(name)
    cut = None if axis is None else slices_of(edit.node).get(axis)
    stay = None if axis is None else edit.kept.along(name, axis)
    if axis is None or cut is None or stay is None:
        return
    if cut.step == 1:
        _bound_(edit, axis, (int(stay[: cut.start].sum()), int(stay[: cut.stop].sum())))
        return
    picked = edit.constants.fresh(f"{edit.new.output[0]}.picked")
    gather = helper.make_node("Gather", [name, ""], [picked], f"{edit.new.name}/Gather", axis=axis)
    edit.constants.set_(gather, 1, _renumbered(stay, np.arange(len(stay))[cut]))
    edit.before.append(gather)
    edit.new.input[0] = picked
    _bound_(edit, axis, (0, _TO_THE_END))


def _bound_(edit: Edit, axis: int, bounds: tuple[int, int]) -> None:
    """Let a Slice take what lies between two bounds along an axis."""
    node = edit.node
    starts, ends = list(node.integers(1, "starts") or []), list(node.integers(2, "ends") or [])
    axes = normalized(node.integers(3, "axes") or range(len(starts)), node.x.rank)
    steps = node.integers(4) or [1] * len(starts)
    at = axes.index(axis)
    starts[at], ends[at], steps[at] = *bounds, 1
    if node.opset < 10:
        edit.set_attribute_("starts", starts)
        edit.set_attribute_("ends", ends)
        return
    for index, values in enumerate((starts, ends, axes, steps), start=1):
        edit.set_input_(index, values)


def _gather_(edit: Edit) -> None:
    node, kept = edit.node, edit.kept
    axis, last = node.axis(0), node.axis(0) + node.required(1).rank - 1
    stay, after = kept.along(node.x.name, axis), kept.axis(edit.new.output[0])
    among_picked = after is not None and axis <= after <= last
    if stay is None and not among_picked:
        return
    indices = np.asarray(node.constant(1), np.int64) % node.x.shape[axis]
    left = kept.along(edit.new.output[0], after) if after is not None and among_picked else None
    if left is not None and after is not None:
        indices = indices.compress(left, after - axis)
    edit.set_input_(1, indices if stay is None else _renumbered(stay, indices))


def _renumbered(stay: Mask, positions: Array) -> Array:
    """Where positions are among those that stay; of a list, the ones that do not are left out."""
    among = np.cumsum(stay) - 1
    wanted = positions[stay[positions]] if positions.ndim == 1 else positions
    return np.asarray(among[wanted], np.int64)


def _pad_(edit: Edit) -> None:
    """A pad along channels adds those that stay of what it added, or drops what is left of what it dropped."""
    node, kept = edit.node, edit.kept
    amounts, axes = node.integers(1, "pads") or [], normalized(node.integers(3) or range(node.x.rank), node.x.rank)
    axis = next((a for a in (kept.axis(edit.new.output[0]), kept.axis(node.x.name)) if a in axes), None)
    if axis is None:
        return
    at = axes.index(axis)
    for index in (at, at + len(axes)):
        count = abs(amounts[index])
        mask = kept.along(edit.new.output[0] if amounts[index] > 0 else node.x.name, axis)
        if mask is not None and count:
            end = mask[:count] if index == at else mask[-count:]
            amounts[index] = int(np.sign(amounts[index])) * int(end.sum())
    if node.opset < 11:
        edit.set_attribute_("pads", amounts)
    else:
        edit.set_input_(1, amounts)


def _resize_(edit: Edit) -> None:
    node, scales = edit.node, edit.node.constant(2)
    if node.kind == "Resize" and (scales is None or not scales.size):
        axes = normalized(node.attribute("axes", range(node.x.rank)), node.x.rank)
        edit.set_input_(3, [edit.size_after[axis] for axis in axes])


def _conv_(edit: Edit) -> None:
    groups = int(edit.node.attribute("group", 1))
    if groups > 1:
        edit.set_attribute_("group", _groups_left(edit, groups))


def _group_norm_(edit: Edit) -> None:
    edit.set_attribute_("num_groups", _groups_left(edit, int(edit.node.attribute("num_groups"))))


def _groups_left(edit: Edit, groups: int) -> int:
    mask = edit.kept.along(edit.node.x.name, 1)
    return groups if mask is None else int(mask.reshape(groups, -1).any(1).sum())


_CHANGES: dict[str, Callable[[Edit], None]] = {
    "Conv": _conv_,
    "ConvTranspose": _conv_,
    "Expand": _expand_,
    "Gather": _gather_,
    "GroupNormalization": _group_norm_,
    "Pad": _pad_,
    "Reshape": _reshape_,
    "Resize": _resize_,
    "Slice": _slice_,
    "Split": _split_,
    "Squeeze": _squeeze_,
    "Tile": _tile_,
}
