"""Importance by gradients: what the loss, or the output, says of a channel.

Sources: first-order Taylor: Molchanov et al.: Importance Estimation for Neural Network Pruning, arXiv:1906.10771,
section 3.1, of a gate; Fisher: LeCun et al.: Optimal Brain Damage, 1989, equation 5, with the diagonal of the Fisher
matrix in the place of the Hessian's: Theis et al., arXiv:1801.05787, equation 10.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, fx

from avcompress.prune.groups import Coupling
from avcompress.prune.importance.derivatives import gradients, weights_by_name
from avcompress.prune.importance.gates import gate_gradients
from avcompress.prune.importance.lesson import Lesson
from avcompress.prune.importance.scores import lines, relative
from avcompress.prune.weights import layers_of
from avcompress.spec import Array


def taylor(module: fx.GraphModule, coupling: Coupling, lesson: Lesson) -> dict[str, Array]:
    """By how much the loss of an image changes, to first order, without a channel: |g|, the mean over images.

    g is the gradient of the channel's gate, which is the sum of w g over all weights that read it. Comparable between
    groups as it is. With `response`, the expected movement of the outputs, in parts of their deviation.
    """
    return _mean(module, coupling, lesson, np.abs)


def fisher(module: fx.GraphModule, coupling: Coupling, lesson: Lesson) -> dict[str, Array]:
    """By how much the loss of an image grows, to second order, without a channel: g², the mean over images.

    The mean is the diagonal of the Fisher matrix of the gates; for a loss that is a negative log likelihood at its
    minimum that is the Hessian's diagonal, and half of it what is lost. With `response` it is the diagonal of the
    Gauss-Newton matrix of the squared distance of the outputs. Comparable between groups as it is.
    """
    return _mean(module, coupling, lesson, np.square)


def _mean(
    module: fx.GraphModule, coupling: Coupling, lesson: Lesson, part: Callable[[Array], Array]
) -> dict[str, Array]:
    totals: dict[str, Array] = {}
    count = 0
    for found in gate_gradients(module, coupling, lesson):
        for name, values in found.items():
            totals[name] = totals.get(name, 0) + part(values).sum(0)
            images = len(values)
        count += images
    return {name: total / count for name, total in totals.items()}


def gradient(module: fx.GraphModule, coupling: Coupling, lesson: Lesson) -> dict[str, Array]:
    """The magnitudes of the gradients of the weights that compute a channel, their sum, the mean over batches.

    In parts of the group's mean, for a gradient has another unit in every layer. The weights that read the channel do
    not count: their gradients say how active it is, not whether anyone listens.
    """
    outputs = {(weight.tensor, weight.outputs) for weight, _ in layers_of(module)}
    weights = weights_by_name(module, dict.fromkeys(tensor for tensor, _ in outputs))
    places = {
        group.name: [line for line in lines(group) if (line.tensor, line.axis) in outputs and line.tensor in weights]
        for group in coupling.groups
    }
    wanted = {line.tensor: weights[line.tensor] for own in places.values() for line in own}
    totals = {name: np.zeros(own[0].width) for name, own in places.items() if own}
    for found in gradients(module, wanted, lesson):
        for name in totals:
            for line in places[name]:
                totals[name] += line.by_channel(_along(found[line.tensor].abs(), line.axis))
    return relative(totals)


def _along(values: Tensor, axis: int) -> Array:
    found: Array = values.double().sum([i for i in range(values.dim()) if i != axis]).cpu().numpy()
    return found
