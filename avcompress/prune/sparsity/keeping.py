"""Zeros in training: those that a network has stay, and more of them may come while it trains.

Both are `Zeros` of the training loop: `run_steps(module, settings, loss_of, Around(zeros=...))`. What is exactly 0 in a
sparse weight stays 0, by chance too: a tensor of zeros, as some layers start with, would learn nothing.

Source: the rise of the share: Zhu and Gupta: To prune, or not to prune, arXiv:1710.01878.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import fx, nn

from avcompress.prune.schedule import Rise
from avcompress.prune.sparsity.unstructured import Scope, WeightScores, unstructured
from avcompress.spec import ModelError
from avcompress.train.zeros import Zeros, mask_, named, zeros_of

ScoresOf = Callable[[nn.Module], WeightScores]
"""By the names of constants, how important each weight of what is trained is at that time."""
_FIRST = -1.0
"""A score below all others, which are 0 or above."""


def keep_zeros(module: fx.GraphModule, tensors: Iterable[str], prefix: str = "") -> Zeros:
    """Let the zeros of some weights stay.

    Args:
        module: what import_onnx made of the network.
        tensors: the names of the weights' constants, as `Artifact.sparse` has them.
        prefix: of the parameters' names in what is trained, as "student.".
    """
    return zeros_of(_parameters(module, tensors, prefix).values())


def growing_zeros(
    module: fx.GraphModule,
    tensors: Iterable[str],
    rise: Rise,
    scope: Scope = "local",
    scores_of: ScoresOf | None = None,
    prefix: str = "",
) -> Zeros:
    """Let more and more weights become zeros, as the schedule has it, the least important ones at each time.

    By default those of the least magnitude. What is 0 already comes first: of other weights that nothing pulls at the
    scores may be 0, too.
    """
    parameters = _parameters(module, tensors, prefix)
    constant = zeros_of(parameters.values())

    def magnitudes(trained: nn.Module) -> WeightScores:
        found = named(trained, parameters.values())
        return {name: found[path].detach().abs().double().cpu().numpy() for name, path in parameters.items()}

    def grow_(trained: nn.Module, done: int) -> None:
        if rise.is_due(done):
            weights = named(trained, parameters.values())
            gone = {name: weights[path].detach().cpu().numpy() == 0 for name, path in parameters.items()}
            scores = {
                name: np.where(gone[name], _FIRST, values)
                for name, values in (scores_of or magnitudes)(trained).items()
            }
            masks = unstructured(scores, rise.at(done), scope)
            mask_(trained, {parameters[name]: torch.from_numpy(mask) for name, mask in masks.items()})

    return Zeros(constant.masks, grow_, rise.end)


def _parameters(module: fx.GraphModule, tensors: Iterable[str], prefix: str) -> dict[str, str]:
    attributes: Mapping[str, str] = module.meta["parameters"]
    wanted = tuple(dict.fromkeys(tensors))
    missing = next((name for name in wanted if name not in attributes), None)
    if missing is not None:
        raise ModelError(
            f"sparsity: expected trained weights of the network, got {missing!r}, which is none; name constants that "
            "layers multiply by"
        )
    return {name: prefix + attributes[name] for name in wanted}
