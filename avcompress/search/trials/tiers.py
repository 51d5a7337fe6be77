"""What a candidate costs to try, and cheaper tries of it: with a share of the images and of the training steps."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from avcompress.contract import AccuracyTerm, Contract
from avcompress.recipe import DataSource, GeneratedSource, Recipe, Stage
from avcompress.recipe_drive import RosbagSource
from avcompress.recipe_training import Training

LEARNED = ("adaround", "reconstruct", "prune", "sparsify", "factorize", "rewrite")
TRAINED = ("train", "distill", "qat")
TIERS = ("calibration alone", "learned layer by layer, or smaller", "trained")
"""What a candidate takes, cheapest first."""


def tier_of_kind(kind: str) -> int:
    """The tier of a stage."""
    return 2 if kind in TRAINED else 1 if kind in LEARNED else 0


def tier_of(recipe: Recipe) -> int:
    """The tier of a candidate: that of its dearest stage, with what trains within it."""
    return max(_stage_tier(stage) for stage in recipe.stages)


def _stage_tier(stage: Stage) -> int:
    trains = isinstance(getattr(stage, "recover", None), Training)
    return 2 if trains else tier_of_kind(stage.kind)


def cost_of(recipe: Recipe) -> tuple[int, ...]:
    """How many stages of each tier a candidate has, the dearest tier first: the less, the cheaper."""
    count = Counter(map(_stage_tier, recipe.stages))
    return tuple(count[tier] for tier in reversed(range(len(TIERS))))


def at_share(recipe: Recipe, share: float) -> Recipe:
    """The same candidate with every n-th of its validation images, and as much less training.

    Calibration is as it is: its steps are then the same as those of the whole trial, which takes them over. On fewer
    images, terms on slices say nothing, and an interval proves nothing: they are left to the whole trial.
    """
    if share == 1:
        return recipe
    data = recipe.data.model_copy(update={"validation": _thinned(recipe.data.validation, share)})
    stages = tuple(_shortened(stage, share) for stage in recipe.stages)
    return recipe.model_copy(update={"data": data, "stages": stages, "contract": _rough(recipe.contract)})


def _thinned(source: DataSource, share: float) -> DataSource:
    if isinstance(source, GeneratedSource | RosbagSource):  # has no labels, and judges nothing
        return source
    limit = None if source.limit is None else max(1, math.ceil(source.limit * share))
    return source.model_copy(update={"every": source.every * max(1, round(1 / share)), "limit": limit})


def _shortened(stage: Any, share: float) -> Any:
    changed: dict[str, Any] = {}
    if isinstance(stage, Training):
        if stage.steps is not None:
            changed["steps"] = max(1, round(stage.steps * share))
        elif stage.epochs is not None:
            changed["epochs"] = stage.epochs * share
    recover = getattr(stage, "recover", None)
    if isinstance(recover, Training):
        changed["recover"] = _shortened(recover, share)
    return stage.model_copy(update=changed)


def _rough(contract: Contract) -> Contract:
    def rough(term: AccuracyTerm) -> AccuracyTerm:
        return term.model_copy(update={"decide": "point"})

    accuracy = tuple(rough(term) for term in contract.accuracy if term.slice is None)
    left = contract.model_copy(update={"accuracy": accuracy})
    empty = not (left.accuracy or left.latency or left.speedup or left.drift or left.int8)
    return contract if empty else left
