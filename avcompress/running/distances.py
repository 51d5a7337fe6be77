"""How far answers are from others, in the units of a recipe's task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avcompress.recipe import Detection
from avcompress.running.bench import Bench

if TYPE_CHECKING:
    from avcompress.distill.distance import Distance


def distance_of(bench: Bench) -> Distance:
    """That of the recipe's task: what training without labels brings down."""
    from avcompress.distill.distance import distance_of_detector, distance_of_segmenter

    task = bench.recipe.task
    return (
        distance_of_detector(task, bench.recipe.preprocess.size)
        if isinstance(task, Detection)
        else distance_of_segmenter
    )
