"""Importance by how active a channel is.

Source: Molchanov et al.: Pruning Convolutional Neural Networks for Resource Efficient Inference, arXiv:1611.06440,
section 2.2, "activation"; here the mean magnitude rather than the mean, as not all activations are above 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from avcompress.modes import evaluating
from avcompress.prune.answers import answers
from avcompress.prune.groups import Coupling
from avcompress.prune.importance.scores import relative, summed
from avcompress.prune.weights import Weight, layers_of
from avcompress.spec import Array, ModelError


def activation(module: fx.GraphModule, coupling: Coupling, batches: Iterable[tuple[Tensor, Any]]) -> dict[str, Array]:
    """The mean magnitude of a channel where layers read it, their sum, in parts of the group's mean.

    What layers read is behind normalization and activation functions. A group that no layer with constant weights
    reads, as queries and keys of an attention, has no scores.

    Args:
        module: what import_onnx made of the network.
        coupling: of the network.
        batches: inputs (N, C, H, W) with targets, which are not looked at.
    """
    means = _Means(module)
    count = 0
    for inputs, _ in batches:
        with evaluating(module), torch.no_grad():
            answers(means.run, inputs, "importance")
        count += 1
    if not count:
        raise ModelError("importance activation: expected images to look at, got none; give at least one batch")
    return relative(summed(coupling, lambda tensor, axis: means.found.get((tensor, axis))))


class _Means(fx.Interpreter):
    """Adds up, for every layer, the mean magnitude of each input."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.layers = {node: weight for weight, node in layers_of(module)}
        self.found: dict[tuple[str, int], Array] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As the interpreter does, and look at what a layer reads."""
        weight = self.layers.get(n)
        if weight is not None:
            operands, _ = self.fetch_args_kwargs_from_env(n)
            values = _by_input(operands[1 - weight.operand].float(), weight)
            key = (weight.tensor, weight.inputs)
            self.found[key] = self.found.get(key, 0) + values
        return super().run_node(n)


def _by_input(data: Tensor, weight: Weight) -> Array:
    """The mean magnitude of each input of a group, over images, places and groups, float64.

    The inputs of a transposed convolution lie along its weight's axis one group after the other.
    """
    axis = weight.data_axis % data.dim()
    means = data.abs().mean([i for i in range(data.dim()) if i != axis], dtype=torch.float64)
    if weight.kind == "Conv" and weight.groups > 1:
        means = means.reshape(weight.groups, -1).mean(0)
    return np.asarray(means.cpu().numpy())
