"""What a layer's error does to the network's output: a branch among many may lose more than what all must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from avcompress.lowrank.surgery import apply
from avcompress.lowrank.values import Choice
from avcompress.output_error import output_errors
from avcompress.spec import Array

_TOGETHER = 8
"""Networks that are run on the same images at once."""
_SMALLEST = 1e-6
"""Of an error: what is lost without one is none of the layer's."""


def weigh(
    network: onnx.ModelProto, gains: Mapping[str, tuple[Choice, ...]], images: Sequence[Array]
) -> Mapping[str, float]:
    """By layer, the network's output error for each unit of the layer's own, measured with its fastest choice alone.

    Errors of several layers then add up, as those of independent noise do. Without images every layer counts the same.

    Args:
        network: float, with shapes stated.
        gains: by layer, its choices, the fastest first.
        images: that nothing was fitted to, each (1, C, H, W).
    """
    if not images:
        return dict.fromkeys(gains, 1.0)
    fastest = [choices[0] for choices in gains.values()]
    found: dict[str, float] = {}
    for start in range(0, len(fastest), _TOGETHER):
        part = fastest[start : start + _TOGETHER]
        errors = output_errors(network, [apply(network, [choice.candidate.into]) for choice in part], images)
        for choice, error in zip(part, errors, strict=True):
            found[choice.layer] = error / max(choice.candidate.error, _SMALLEST)
    return found
