"""A convolution of an image's pixels gathered into channels, as a strided one of the image itself.

Detectors of the YOLO family begin with a "focus" layer: every second pixel of every second row, from four starts,
beside each other as channels, then a 3x3 convolution. That is a 6x6 convolution with stride 2, without a copy of the
image.

Source: YOLOv5 v6.0, release notes: the focus layer and its 6x6 equivalent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.rewrite.values import Allowed, Change
from avcompress.spec import Array
from engines.onnx_graph import attribute, copy, drop_unused, fresh, initializers, is_standard, shapes


class _Phase(NamedTuple):
    """Where, in each block of pixels, a gathered image begins: row and column."""

    row: int
    column: int


class _Gathered(NamedTuple):
    """An image whose blocks of pixels have become channels.

    Attributes:
        image: the tensor (N, C, H, W) that was gathered.
        block: pixels of a block along each of both axes.
        phases: of the groups of C channels, in order; every one of the block's once.
    """

    image: str
    block: int
    phases: tuple[_Phase, ...]


def strided_conv(network: onnx.ModelProto, allowed: Allowed) -> Change:
    """Let convolutions of gathered pixels read the image itself; exact but for rounding."""
    new = copy(network)
    view = _View(new)
    taken = {*view.constants, *view.producer}
    changed = []
    for node in new.graph.node:
        gathered = view.gathered(node.input[0]) if _is_plain(node, view) and allowed(node.name) else None
        if gathered is None:
            continue
        weight = view.value(node.input[1])
        node.input[0] = gathered.image
        node.input[1] = fresh(f"{node.input[1]}.strided", taken)
        new.graph.initializer.append(numpy_helper.from_array(_spread(weight, gathered), node.input[1]))
        _stretch_(node, weight.shape[2:], gathered.block)
        changed.append(node.name)
    return Change(drop_unused(new) if changed else network, tuple(changed))


def _is_plain(node: onnx.NodeProto, view: _View) -> bool:
    """Whether it is a convolution over all channels, undilated, with constant weights and stated padding."""
    return (
        node.op_type == "Conv"
        and is_standard(node)
        and node.input[1] in view.constants
        and len(view.constants[node.input[1]].dims) == 4
        and attribute(node, "group", 1) == 1
        and set(_ints(node, "dilations", (1,))) == {1}
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    )


def _ints(node: onnx.NodeProto, name: str, default: Sequence[int]) -> tuple[int, ...]:
    return tuple(attribute(node, name, default))  # type: ignore[arg-type]


def _spread(weight: Array, gathered: _Gathered) -> Array:
    """(M, C·block², h, w) -> (M, C, block·h, block·w): each phase's weights at every block-th place."""
    block, channels = gathered.block, weight.shape[1] // len(gathered.phases)
    height, width = weight.shape[2:]
    spread = np.zeros((weight.shape[0], channels, block * height, block * width), weight.dtype)
    for number, phase in enumerate(gathered.phases):
        part = weight[:, number * channels : (number + 1) * channels]
        spread[:, :, phase.row :: block, phase.column :: block] = part
    return spread


def _stretch_(node: onnx.NodeProto, kernel: Sequence[int], block: int) -> None:
    """Kernel, strides and padding in pixels of the image."""
    wanted = {
        "kernel_shape": [block * size for size in kernel],
        "strides": [block * step for step in _ints(node, "strides", (1, 1))],
        "pads": [block * pad for pad in _ints(node, "pads", (0, 0, 0, 0))],
    }
    kept = [each for each in node.attribute if each.name not in wanted]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in wanted.items())])


class _View:
    """A network with its look-ups."""

    def __init__(self, network: onnx.ModelProto) -> None:
        self.constants = initializers(network)
        self.producer = {output: node for node in network.graph.node for output in node.output}
        self.shapes = shapes(network)

    def value(self, name: str) -> Array:
        """The constant of this name."""
        return numpy_helper.to_array(self.constants[name])

    def gathered(self, tensor: str) -> _Gathered | None:
        """How a tensor was gathered from the pixels of an image; None where it was not."""
        node = self.producer.get(tensor)
        if node is None or not is_standard(node):
            return None
        if node.op_type == "SpaceToDepth":
            return self._space_to_depth(node)
        if node.op_type != "Concat" or attribute(node, "axis", None) != 1:
            return None
        parts = [self._phase(name) for name in node.input]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts) or len({part[:2] for part in found}) > 1:
            return None
        image, block = found[0][:2]
        phases = tuple(part[2] for part in found)
        return _Gathered(image, block, phases) if self._is_whole(image, block, phases) else None

    def _space_to_depth(self, node: onnx.NodeProto) -> _Gathered | None:
        """Blocks of pixels, row by row. Source: ONNX SpaceToDepth."""
        block = int(attribute(node, "blocksize", 0))  # type: ignore[call-overload]
        phases = tuple(_Phase(row, column) for row in range(block) for column in range(block))
        return _Gathered(node.input[0], block, phases) if self._is_whole(node.input[0], block, phases) else None

    def _is_whole(self, image: str, block: int, phases: Sequence[_Phase]) -> bool:
        """Whether every pixel is gathered once."""
        shape = self.shapes.get(image, ())
        return (
            len(shape) == 4
            and all(size % block == 0 for size in shape[2:])
            and sorted(phases) == [(row, column) for row in range(block) for column in range(block)]
        )

    def _phase(self, tensor: str) -> tuple[str, int, _Phase] | None:
        """(image, block, phase) of a tensor that slices take from an image; None for another."""
        starts, steps = {2: 0, 3: 0}, {2: 1, 3: 1}
        while tensor in self.producer and self.producer[tensor].op_type == "Slice":
            node = self.producer[tensor]
            cuts = list(self._cuts(node))
            if not cuts or any(steps.get(cut.axis) != 1 for cut in cuts):
                return None
            starts.update({cut.axis: cut.start for cut in cuts})
            steps.update({cut.axis: cut.step for cut in cuts})
            tensor = node.input[0]
        if steps[2] != steps[3] or steps[2] < 2:
            return None
        return tensor, steps[2], _Phase(starts[2], starts[3])

    def _cuts(self, node: onnx.NodeProto) -> Iterator[_Cut]:
        """What a slice takes along each axis; nothing where it is not constant, or does not reach to the end."""
        shape = self.shapes.get(node.input[0], ())
        if len(shape) != 4 or any(name and name not in self.constants for name in node.input[1:]):
            return
        values = [self.value(name).tolist() for name in node.input[1:] if name]
        starts, ends = values[:2]
        axes = values[2] if len(values) > 2 else range(len(starts))
        steps = values[3] if len(values) > 3 else [1] * len(starts)
        cuts = [
            _Cut(axis % 4, start, step)
            for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
            if end >= shape[axis % 4] and 0 <= start < step
        ]
        if len(cuts) == len(starts):
            yield from cuts


class _Cut(NamedTuple):
    axis: int
    start: int
    step: int
