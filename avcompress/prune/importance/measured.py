"""Importance by what is really lost: the network without some channels, fitted, beside the network as it was.

Derivatives tell of small changes; removing half of a layer is none. So each group is cut, alone, to a few widths, what
reads it is fitted to what it gave, and what the outputs then lose is measured on images. In between it rises evenly.
Channels of a group go in the order of their `fisher` importance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from avcompress.onnx_import import import_onnx
from avcompress.prune.fitting import Example, example, fitted, outputs_gone
from avcompress.prune.groups import Coupling, Group
from avcompress.prune.importance.gradients import fisher
from avcompress.prune.importance.lesson import Lesson
from avcompress.prune.slicing import without
from avcompress.spec import Array, Track, untracked

WIDTHS = 5
"""At most, for a group: the widest that is narrower than it is, the narrowest, and some between."""
_BEYOND = 4.0
"""Below the narrowest width a channel costs so many times what the last one did: nobody has measured it."""

Floats = NDArray[np.float64]


def measured(
    network: onnx.ModelProto, coupling: Coupling, lesson: Lesson, align: int = 8, track: Track = untracked
) -> dict[str, Array]:
    """What the outputs lose by the removal of a channel, once those that are less important are gone.

    Args:
        network: that the coupling is of.
        coupling: whose groups are measured.
        lesson: on which images, and what counts.
        align: widths that are measured are multiples of it.
        track: told of each group.
    """
    order = fisher(import_onnx(network), coupling, lesson)
    beside = example(network, lesson.batches)
    groups = [group for group in coupling.groups if group.name in order]
    return {
        group.name: _by_channel(
            order[group.name], _curve(network, coupling, group, order[group.name], (lesson, beside), align)
        )
        for group in track(groups, len(groups))
    }


def _curve(
    network: onnx.ModelProto,
    coupling: Coupling,
    group: Group,
    order: Array,
    judged: tuple[Lesson, Example],
    align: int,
) -> list[tuple[int, float]]:
    """How many channels are removed, and what that loses; from none on."""
    lesson, beside = judged
    least_first = np.argsort(order, kind="stable").tolist()
    curve = [(0, 0.0)]
    for width in widths(len(group.channels), align):
        count = len(group.channels) - width
        removed = {group.name: tuple(sorted(least_first[:count]))}
        gone = outputs_gone(network, coupling, removed)
        near = {*group.readers, *(layer for layer, outputs in gone.items() if outputs)}
        outputs = fitted(beside, without(network, coupling, removed), gone, near).outputs
        losses = [
            lesson.lost(ours, chunk.targets, whole) * len(chunk.images)
            for ours, chunk, whole in zip(outputs, beside.chunks, beside.outputs, strict=True)
        ]
        curve.append((count, sum(losses) / sum(len(chunk.images) for chunk in beside.chunks)))
    return curve


def widths(channels: int, align: int) -> list[int]:
    """The widths that a group of so many channels is measured at, the widest first."""
    every = [width for width in range(align, channels, align) if width >= channels / 10]
    places = np.linspace(0, len(every) - 1, min(len(every), WIDTHS)).round().astype(int)
    return [every[place] for place in places[::-1].tolist()]


def _by_channel(order: Array, curve: Sequence[tuple[int, float]]) -> Floats:
    """Each channel's share of a curve: what the step loses in which it goes, never less than the one before."""
    steps = [
        np.full(count - before, (lost - kept) / (count - before)) for (before, kept), (count, lost) in pairwise(curve)
    ]
    known = np.concatenate([*steps, np.zeros(0)])
    known = np.maximum(isotonic_regression(known).x, 0) if len(known) else np.full(1, np.asarray(order).max())
    costs = np.concatenate([known, np.full(max(len(order) - len(known), 0), known[-1] * _BEYOND)])[: len(order)]
    found = np.empty(len(order))
    # A little more each, so that what costs the same keeps its order.
    found[np.argsort(order, kind="stable")] = costs + np.arange(len(costs)) * max(float(costs.max()), 1e-12) * 1e-9
    return found
