"""The gradient of each channel's gate: a factor, 1 in the network, on what layers read of the channel; 0 removes it.

By one pass forward and back for a whole batch, image by image: the gate of channel c has the gradient x_c dL/dx_c,
summed over all places where a layer reads c. No weight needs a gradient.

Source: Theis et al.: Faster gaze prediction with dense networks and Fisher pruning, arXiv:1801.05787, equation 10, here
with one gate for all layers that read a channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from avcompress.modes import evaluating
from avcompress.prune.answers import answers
from avcompress.prune.groups import Coupling, Group
from avcompress.prune.importance.derivatives import checked, differentiable, no_batches
from avcompress.prune.importance.lesson import Lesson
from avcompress.prune.importance.scores import Line, lines
from avcompress.prune.weights import Weight, layers_of
from avcompress.spec import Array

Edge = tuple[str, int]
"""A constant's name and an axis: that of its inputs for what its layer reads, of its outputs for what it gives."""


def gate_gradients(module: fx.GraphModule, coupling: Coupling, lesson: Lesson) -> Iterator[dict[str, Array]]:
    """By group, the gradient of every channel's gate for each image of a batch: (images, channels); batch by batch.

    The loss is a mean over the images of a batch; the gradients are those of an image's own. Channels that no layer
    with constant weights reads have their gates where layers give them, and the mean of several: queries and keys are
    multiplied with each other, so that the gate of either removes both.
    Raises ModelError for a loss that is not finite, or when there are no batches.
    """
    layers = layers_of(module)
    reads = {(weight.tensor, weight.inputs) for weight, _ in layers}
    gives = {(weight.tensor, weight.outputs) for weight, _ in layers}
    found = {group.name: _places(group, reads, gives) for group in coupling.groups}
    places = {name: own for name, own in found.items() if own.lines}
    if not places:
        return
    edges = {(line.tensor, line.axis) for own in places.values() for line in own.lines}
    loss_of, count = lesson.loss_of(), 0
    for inputs, targets in lesson.batches:
        with evaluating(module), differentiable(module, ()):
            gates = _Gates(module, edges, len(inputs))
            pictures = inputs.detach().requires_grad_()
            loss = checked(loss_of(answers(gates.run, pictures, "importance"), targets), count)
            torch.autograd.grad(loss, [pictures, *gates.constants], allow_unused=True)
        yield {name: _by_channel(own, gates.found, len(inputs)) for name, own in places.items()}
        count += 1
    if not count:
        raise no_batches()


class _Places(NamedTuple):
    """Where a group's gates are, and what the sum over them counts."""

    lines: tuple[Line, ...]
    factor: float


def _places(group: Group, reads: set[Edge], gives: set[Edge]) -> _Places:
    read, given = (
        tuple(line for line in lines(group) if (line.tensor, line.axis) in edges) for edges in (reads, gives)
    )
    return _Places(read, 1.0) if read else _Places(given, 1.0 / max(len(given), 1))


def _by_channel(own: _Places, found: Mapping[Edge, Array], images: int) -> Array:
    totals = np.zeros((images, own.lines[0].width))
    for line in own.lines:
        values = found.get((line.tensor, line.axis))
        if values is not None:
            totals += [line.by_channel(row) for row in values]
    return totals * (images * own.factor)


class _Where(NamedTuple):
    """What stands at an edge: which axis of the tensor, from the end, holds the channels, and the groups in it."""

    edge: Edge
    axis: int
    groups: int


class _Gates(fx.Interpreter):
    """Runs the network, and adds up x dL/dx of what layers read and give while the gradient passes."""

    def __init__(self, module: fx.GraphModule, edges: set[Edge], images: int) -> None:
        super().__init__(module)
        self.layers = {node: weight for weight, node in layers_of(module)}
        self.edges = edges
        self.images = images
        self.found: dict[Edge, Array] = {}
        self.constants: list[Tensor] = []

    def run_node(self, n: fx.Node) -> Any:
        """As the interpreter does, with a gate before a layer and behind it."""
        weight = self.layers.get(n)
        if weight is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        operands = list(args)
        data = 1 - weight.operand
        operands[data] = self._gated(operands[data], _read(weight))
        result = self.call_function(n.target, tuple(operands), kwargs)
        return self._gated(result, _given(weight, result))

    def _gated(self, value: Tensor, where: _Where) -> Tensor:
        if where.edge not in self.edges:
            return value
        if value.requires_grad:
            gate = value.view_as(value)
        else:  # it depends on no image, as a table of positions
            gate = value.detach().requires_grad_()
            self.constants.append(gate)
        gate.register_hook(lambda gradient: self._add(where, value.detach(), gradient))  # type: ignore[no-untyped-call]
        return gate

    def _add(self, where: _Where, value: Tensor, gradient: Tensor) -> None:
        axis = where.axis % value.dim()
        products = (value * gradient).double().movedim(axis, -1)
        # Without a dimension of images, as in a transposed matrix, none can be told apart.
        rows = products.reshape(len(products) if axis else 1, -1, products.shape[-1]).sum(1)
        by_image = self._by_image(rows.reshape(len(rows), where.groups, -1).sum(1))
        self.found[where.edge] = self.found.get(where.edge, 0) + by_image.cpu().numpy()

    def _by_image(self, rows: Tensor) -> Tensor:
        """(images, channels) of rows that may be several for an image, or one for all of them."""
        if len(rows) % self.images == 0:
            return rows.reshape(self.images, -1, rows.shape[1]).sum(1)
        return rows.sum(0, keepdim=True).expand(self.images, -1) / self.images


def _read(weight: Weight) -> _Where:
    """Inputs of a transposed convolution lie along its weight one group after the other, of a convolution by group."""
    return _Where((weight.tensor, weight.inputs), weight.data_axis, weight.groups if weight.kind == "Conv" else 1)


def _given(weight: Weight, result: Tensor) -> _Where:
    """Outputs lie along the weight of a convolution one group after the other, of a transposed one by group."""
    convolution = weight.kind in {"Conv", "ConvTranspose"}
    axis = 1 - result.dim() if convolution else -1 if weight.operand else -2
    groups = weight.groups if weight.kind == "ConvTranspose" else 1
    return _Where((weight.tensor, weight.outputs), axis, groups)
