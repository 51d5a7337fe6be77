"""What the measures by derivatives share: the network in torch, its weights by group, and their errors by precision.

An error d of a group's numbers moves the answers by J d, J their Jacobian at the float network, in the units of
`distill.movement`. With random signs s on the answers, one pass back gives g = J's, and the mean of g_i² is the
diagonal of J'J: of the Fisher matrix of the answers, and of the Hessian of half their squared movement. No labels are
needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper
from typing_extensions import Self

from avcompress.recipe import Task
from avcompress.search.formats import Formats
from avcompress.search.sensitivity.shots import Shots
from avcompress.search.sensitivity.threads import one_thread
from avcompress.spec import Array, Precision
from engines.onnx_graph import initializers

if TYPE_CHECKING:
    from torch import fx, nn

    from avcompress.distill.movement import Moves

Block = tuple[int, ...]
"""Images by their numbers."""
Sums = dict[str, dict[Precision, float]]
"""By group, then by precision: summed over a block."""


class Slope(NamedTuple):
    """What one of a group's layers reads, and its squared gradient; others that read it are counted with it."""

    layer: str
    value: Array
    squares: Array


@dataclass(frozen=True, eq=False)
class Derivatives:
    """A network that is differentiated.

    Attributes:
        formats: the network, and it in other precisions.
        shots: the images.
        task, size: see OutputError.
        seed: of the random signs; each image has its own.
    """

    formats: Formats
    shots: Shots
    task: Task | None
    size: tuple[int, int]
    seed: int = 0

    def moved(self) -> Self:
        """The same for another machine: see `RayPool`."""
        return replace(self, shots=self.shots.moved())

    @cached_property
    def module(self) -> fx.GraphModule:
        """The float network."""
        from avcompress.onnx_import import import_onnx

        return import_onnx(self.formats.model)

    @cached_property
    def weights(self) -> dict[str, nn.Parameter]:
        """What groups multiply by, by the constant's name."""
        from avcompress.prune.importance.derivatives import weights_by_name

        return weights_by_name(self.module, dict.fromkeys(name for own in self.constants.values() for name in own))

    @property
    def moves(self) -> Moves:
        """The units of the answers."""
        from avcompress.distill.movement import moves_of

        return moves_of(self.task, self.size)

    def slopes(self, number: int) -> tuple[dict[str, Array], list[Slope]]:
        """Squared gradients of the answers in a random direction, for one image: of weights, and of layers' inputs."""
        import torch

        from avcompress.modes import evaluating
        from avcompress.prune.importance.derivatives import differentiable
        from avcompress.prune.importance.lesson import Lesson
        from avcompress.search.sensitivity.inputs import Inputs

        inputs = Inputs(self.module)
        loss = Lesson((), None, self.moves, seed=self.seed + number).loss_of()
        with one_thread(), evaluating(self.module), differentiable(self.module, self.weights.values()):
            image = torch.from_numpy(self.shots.image(number)).requires_grad_()
            along = loss(inputs.run(image), None)
            sources = [*self.weights.values(), *inputs.gates.values()]
            found = torch.autograd.grad(along, sources, allow_unused=True, materialize_grads=True)
        squares = [np.square(gradient.double().numpy()) for gradient in found]
        split = len(self.weights)
        return dict(zip(self.weights, squares, strict=False)), [
            Slope(inputs.layers[node], gate.detach().numpy(), own)
            for (node, gate), own in zip(inputs.gates.items(), squares[split:], strict=True)
        ]

    @cached_property
    def cases(self) -> tuple[tuple[str, Precision], ...]:
        """Every group in every precision but FP32 that it may take."""
        return tuple((group, each) for group, own in self.formats.choices.items() for each in own if each != "fp32")

    def zeros(self) -> Sums:
        """Nothing yet, for every case."""
        sums: Sums = {}
        for group, precision in self.cases:
            sums.setdefault(group, {})[precision] = 0.0
        return sums

    @cached_property
    def constants(self) -> Mapping[str, tuple[str, ...]]:
        """The weights of each group's layers, by the group's name."""
        nodes = {node.name: node for node in self.formats.model.graph.node}
        known = initializers(self.formats.model)
        return {
            group.name: tuple(
                dict.fromkeys(name for layer in group.layers for name in nodes[layer].input[:2] if name in known)
            )
            for group in self.formats.layout.groups
        }

    @cached_property
    def squared_errors(self) -> Mapping[Precision, Mapping[str, Array]]:
        """By precision and constant: the squares of what its values are off by."""
        return {precision: _squares(self.formats, precision) for precision in dict.fromkeys(p for _, p in self.cases)}


def _squares(formats: Formats, precision: Precision) -> dict[str, Array]:
    after = formats.weights(precision)
    floats = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in formats.model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    return {
        name: np.square(after[name].astype(np.float64) - before)
        for name, before in floats.items()
        if name in after and after[name].shape == before.shape
    }
