"""Choices of layers so that the whole network becomes so many times faster, with the least error."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from avcompress.lowrank.budget import Option, least_error
from avcompress.lowrank.measured import confirmed
from avcompress.lowrank.surgery import apply
from avcompress.lowrank.values import Choice
from engines.turns import Clock

_ROUNDS = 4
"""Of asking for more, where the network saves less than its layers do alone."""
_AT_LEAST = 1.02
"""Times more in each of them."""


def reach(
    network: onnx.ModelProto,
    gains: Mapping[str, tuple[Choice, ...]],
    weights: Mapping[str, float],
    speedup: float,
    clock: Clock,
) -> tuple[Choice, ...]:
    """The choices that reach a speed-up with the least sum of weighted errors, or come as near as there are gains.

    Args:
        network: float, with shapes stated.
        gains: by layer, the choices that are faster alone, the fastest first.
        weights: by layer, what its errors count; see `weigh`.
        speedup: of the whole network, above 1.
        clock: that measures it.

    What layers save alone is only where the search begins: each round measures the network, asks for as much more as it
    lacks, and leaves out the layers that save nothing there.
    """
    (dense,) = clock([network])
    needed = dense * (1 - 1 / speedup)
    rest = dict(gains)
    chosen: tuple[Choice, ...] = ()
    for _ in range(_ROUNDS):
        wanted, is_all = _pick(rest, weights, needed)
        chosen = confirmed(network, wanted, clock)
        refused = {choice.layer for choice in wanted} - {choice.layer for choice in chosen}
        before, after = clock([network, apply(network, [choice.candidate.into for choice in chosen])])
        if before >= after * speedup or (is_all and not refused):
            break
        rest = {name: choices for name, choices in rest.items() if name not in refused}
        if not refused:
            lacking = before * (1 - 1 / speedup) / max(before - after, before * 1e-3)
            needed *= max(min(lacking, 2.0), _AT_LEAST)
    return chosen


def _pick(
    rest: Mapping[str, tuple[Choice, ...]], weights: Mapping[str, float], needed_ms: float
) -> tuple[tuple[Choice, ...], bool]:
    """The choices of least error that save so much alone, and whether they are the fastest of all layers."""
    options = [
        [Option(choice.saved_ms, choice.candidate.error * weights[name]) for choice in choices]
        for name, choices in rest.items()
    ]
    picked = least_error(options, needed_ms)
    if picked is None:
        return tuple(choices[0] for choices in rest.values()), True
    pairs = zip(rest.values(), picked, strict=True)
    return tuple(choices[index] for choices, index in pairs if index is not None), False
