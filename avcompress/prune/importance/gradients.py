"""Importance by gradients: what the loss, or the output, says of a channel's weights.

Sources: first-order Taylor: Molchanov et al.: Importance Estimation for Neural Network Pruning, arXiv:1906.10771,
equation 8, here of all weights of a channel in a layer; Fisher: LeCun et al.: Optimal Brain Damage, 1989, equation 5,
with the diagonal of the Fisher matrix in the place of the Hessian's: Theis et al., arXiv:1801.05787.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor, fx

from avcompress.prune.groups import Coupling
from avcompress.prune.importance.derivatives import gradients, one_by_one, weights_by_name
from avcompress.prune.importance.lesson import Lesson
from avcompress.prune.importance.scores import Line, lines, relative
from avcompress.prune.weights import layers_of
from avcompress.spec import Array

Part = Callable[[Tensor, Tensor], Tensor]
"""From a weight and its gradient to values of the weight's shape, whose sums over a channel count."""
Lines = dict[str, list[Line]]
"""By group, the places that count."""


def gradient(module: fx.GraphModule, coupling: Coupling, lesson: Lesson) -> dict[str, Array]:
    """The magnitudes of the gradients of the weights that compute a channel, their sum, the mean over batches.

    In parts of the group's mean, for a gradient has another unit in every layer. The weights that read the channel do
    not count: their gradients say how active it is, not whether anyone listens.
    """
    outputs = {(weight.tensor, weight.outputs) for weight, _ in layers_of(module)}
    places = _places(module, coupling)
    own = {name: [line for line in each if (line.tensor, line.axis) in outputs] for name, each in places.items()}
    return relative(_sums(module, {name: each for name, each in own.items() if each}, lesson, lambda _, g: g.abs()))


def taylor(module: fx.GraphModule, coupling: Coupling, lesson: Lesson) -> dict[str, Array]:
    """By how much the loss changes, to first order, when a channel's weights are set to 0: |sum of w g|.

    In each layer of its own; of the layers the sum, of the batches the mean. Comparable between groups as it is. With
    `response`, the expected movement of the outputs in parts of their deviation.
    """
    return _sums(module, _places(module, coupling), lesson, lambda w, g: w * g, magnitude=True)


def fisher(module: fx.GraphModule, coupling: Coupling, lesson: Lesson) -> dict[str, Array]:
    """By how much the loss grows, to second order, when a channel's weights are set to 0: the sum of w² g².

    g² is the diagonal of the Fisher matrix, by single images: every batch is taken apart. For a loss that is a negative
    log likelihood at its minimum that is the Hessian's diagonal, up to a factor; with `response` it is the diagonal of
    the Gauss-Newton matrix of the outputs' distance. Comparable between groups as it is.
    """
    single = replace(lesson, batches=one_by_one(lesson.batches))
    return _sums(module, _places(module, coupling), single, lambda w, g: (w * g).square())


def _places(module: fx.GraphModule, coupling: Coupling) -> Lines:
    """By group, where its channels lie in the weights of layers; groups without such are left out."""
    tensors = weights_by_name(module, {weight.tensor for weight, _ in layers_of(module)})
    found = {group.name: [line for line in lines(group) if line.tensor in tensors] for group in coupling.groups}
    return {name: own for name, own in found.items() if own}


def _sums(
    module: fx.GraphModule, places: Lines, lesson: Lesson, part: Part, magnitude: bool = False
) -> dict[str, Array]:
    """By group, the mean over the batches of the sums of a part; with `magnitude`, of the size of each layer's sum."""
    edges = dict.fromkeys((line.tensor, line.axis) for own in places.values() for line in own)
    weights = weights_by_name(module, dict.fromkeys(tensor for tensor, _ in edges))
    totals = {name: np.zeros(own[0].width) for name, own in places.items()}
    count = 0
    for found in gradients(module, weights, lesson):
        parts = {name: part(weight.detach().double(), found[name].double()) for name, weight in weights.items()}
        sums = {(tensor, axis): _along(parts[tensor], axis) for tensor, axis in edges}
        for name, own in places.items():
            each = [line.by_channel(sums[line.tensor, line.axis]) for line in own]
            totals[name] += np.abs(each).sum(0) if magnitude else np.sum(each, axis=0)
        count += 1
    return {name: total / max(count, 1) for name, total in totals.items()}


def _along(values: Tensor, axis: int) -> Array:
    found: Array = values.sum([i for i in range(values.dim()) if i != axis]).cpu().numpy()
    return found
