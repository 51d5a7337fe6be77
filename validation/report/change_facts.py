"""Turns changes between two networks into the report's."""

from __future__ import annotations

import numpy as np

from validation.changes import Changes, ClassChange, MaskChanges, ObjectChange
from validation.report.accuracy import ChangeFacts, ClassChanges, Histogram, PixelChanges, WorstImage

WORST = 20
_BIN = 0.02


def change_facts(changes: Changes) -> ChangeFacts:
    """What changed, by class, and the WORST images."""
    if isinstance(changes, MaskChanges):
        return _pixels(changes)
    return ChangeFacts(
        classes=tuple(_class(found) for found in changes.classes),
        moves=_histogram(changes.moved),
        worst=tuple(
            WorstImage(name=found.name, lost=found.lost, gained=found.gained, new_false_alarms=found.new_alarms)
            for found in changes.worst[:WORST]
        ),
    )


def _class(found: ClassChange) -> ClassChanges:
    return ClassChanges(
        name=found.name,
        objects=found.objects,
        lost=found.lost,
        faded=found.lost_below_threshold,
        gained=found.gained,
        new_false_alarms=found.new_alarms,
        gone_false_alarms=found.vanished_alarms,
        mean_move=found.mean_move,
        worst_move=None if found.worst_move is None else found.worst_move.move,
    )


def _pixels(changes: MaskChanges) -> ChangeFacts:
    return ChangeFacts(
        pixels=tuple(
            PixelChanges(name=found.name, pixels=found.labelled, worse=found.worse, better=found.better)
            for found in changes.classes
        ),
        worst=tuple(
            WorstImage(name=found.name, lost=found.worse, gained=found.better) for found in changes.worst[:WORST]
        ),
    )


def _histogram(moved: tuple[ObjectChange, ...]) -> Histogram | None:
    """Bins of _BIN, symmetrical about no change; None without any move."""
    moves = np.array([found.move for found in moved])
    if not len(moves):
        return None
    steps = max(5, int(np.ceil(np.abs(moves).max() / _BIN)))
    edges = np.arange(-steps, steps + 1) * _BIN
    counts, _ = np.histogram(moves, edges)
    return Histogram(edges=tuple(edges.round(6).tolist()), counts=tuple(counts.tolist()))
