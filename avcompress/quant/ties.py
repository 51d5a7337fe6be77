"""Tensors that should share one scale: whether they do, and which."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from avcompress.recipe import Ptq
from avcompress.spec import TensorRange
from calibration.mse import expected_error
from calibration.ranges import range_from
from calibration.statistics import TensorStatistics, union

LOSS_DB = 6.0
"""The most signal-to-noise ratio that a tensor may lose to a tie: one bit, ranges that differ by a factor of two.

Tying all concatenations of YOLOX-nano would cost their worst inputs up to 4.1 dB or at least 9.0; of ESPNet, up to 5.4
or at least 8.8. Below 6 dB the noise of all inputs of one together grows by less than 2 dB, above by up to 6.
"""


class Settled(NamedTuple):
    """The outcome: the range of every tensor, tied ones with equal ranges, and a line for each tie that was cut."""

    ranges: Mapping[str, TensorRange]
    notes: tuple[str, ...]


def settle_ties(ties: Sequence[Sequence[str]], statistics: Mapping[str, TensorStatistics], settings: Ptq) -> Settled:
    """Choose the range of every tensor, one for those tied together unless that costs one of them too much.

    Tied tensors get the range of all their values taken together. While one of them would lose more than LOSS_DB
    against its own range, the one that loses most keeps its own.
    """
    ranges = {name: range_from(found, settings) for name, found in statistics.items()}
    notes: list[str] = []
    for tie in ties:
        members = [name for name in tie if statistics[name].histogram.amax > 0]
        while len(members) > 1:
            shared = range_from(union([statistics[name] for name in members]), settings)
            losses = {name: _loss_db(statistics[name], ranges[name], shared, settings) for name in members}
            worst = max(members, key=losses.__getitem__)
            if losses[worst] <= LOSS_DB:
                ranges.update(dict.fromkeys(members, shared))
                break
            members.remove(worst)
            cost = f"one with {', '.join(map(repr, members))} would cost it {losses[worst]:.0f} dB"
            notes.append(f"{worst!r} keeps a scale of its own: {cost}")
        # Zeros have no range of their own: any scale represents them.
        zeros = [name for name in tie if statistics[name].histogram.amax == 0]
        ranges.update({name: ranges[members[0]] for name in zeros if members})
    return Settled(ranges, tuple(notes))


def _loss_db(found: TensorStatistics, own: TensorRange, shared: TensorRange, settings: Ptq) -> float:
    """By how much the noise of quantization grows; negative where the shared range happens to serve better."""
    before, after = (expected_error(found.histogram, values, settings) for values in (own, shared))
    if after <= 0:
        return 0.0
    return 10 * math.log10(after / before) if before > 0 else math.inf
