"""Only what is measured to be faster: each layer alone, then all together in the network.

A layer that is faster alone may not be so in its network, where an activation is computed in its kernel, or a tensor
comes in another layout. One layer of many is less than a machine's own noise, though: so groups of layers are measured,
and a group stays where the network becomes faster by at least half of what its layers save alone. Else its halves are
tried.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from avcompress.lowrank.candidates import Candidate
from avcompress.lowrank.surgery import alone, apply
from avcompress.lowrank.values import Choice
from engines.turns import Clock

_CONFIRMED = 0.5
"""Share of what layers save alone that they save in the network, at least."""


def faster_alone(
    network: onnx.ModelProto, candidates: Sequence[Candidate], clock: Clock, min_gain: float
) -> tuple[Choice, ...] | str:
    """The candidates of one layer that are faster than it by a share of its time, the fastest first; else the reason.

    Args:
        network: float, with shapes stated.
        candidates: of one layer, at least one.
        clock: that measures them and the layer in turns.
        min_gain: 0.05: at least 5 % less time.
    """
    single = alone(network, candidates[0].into.layer)
    before, *after = clock([single, *(apply(single, [each.into]) for each in candidates)])
    choices = [Choice(each, before, taken) for each, taken in zip(candidates, after, strict=True)]
    gaining = [choice for choice in choices if choice.ms_after <= before * (1 - min_gain)]
    if not gaining:
        return f"no factors are faster: {before:.3g} ms, and {min(after):.3g} ms in their place"
    return tuple(sorted(gaining, key=lambda choice: choice.ms_after))


def confirmed(network: onnx.ModelProto, choices: Sequence[Choice], clock: Clock) -> tuple[Choice, ...]:
    """The choices that make the whole network faster, in the same order."""
    if not choices:
        return ()
    before, after = clock([network, apply(network, [choice.candidate.into for choice in choices])])
    if before - after >= _CONFIRMED * sum(choice.saved_ms for choice in choices):
        return tuple(choices)
    if len(choices) == 1:
        return ()
    middle = len(choices) // 2
    halves = (confirmed(network, choices[:middle], clock), confirmed(network, choices[middle:], clock))
    return (*halves[0], *halves[1])
