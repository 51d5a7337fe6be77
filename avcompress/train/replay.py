"""Batches of which a share are old samples, so that what was learned from them is not forgotten.

Source: experience replay, Rolnick et al., arXiv:1811.11682.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from avcompress import ranks
from avcompress.recipe_training import Training
from avcompress.spec import Array, RecipeError
from avcompress.train.data import Dataset, Feed, Pictures, batch_order
from avcompress.train.recovery import settled
from calibration.sample import Sample


@dataclass(frozen=True)
class Both:
    """Pictures of two sorts, one after the other."""

    old: Pictures
    new: Pictures

    def __len__(self) -> int:
        return len(self.old) + len(self.new)

    def __getitem__(self, index: int) -> Sample:
        return self.old[index] if index < len(self.old) else self.new[index - len(self.old)]


def count_old(images: int, share: float) -> int:
    """How many of so many images of a batch, or of a part of it, are old: they come first."""
    return round(share * images)


def replaying(old: Dataset, new: Dataset, settings: Training, share: float) -> Feed:
    """Batches that are old by a share, in an order that the settings' seed gives; `epochs` counts the new samples.

    Both datasets are of one preprocessing. Raises RecipeError where the processes and parts of a step cannot all have
    the same whole number of old samples.
    """
    plan = settled(settings, round(len(new.pictures) / (1 - share)))
    order = replay_order(len(old.pictures), len(new.pictures), plan, share)
    both = replace(new, pictures=Both(old.pictures, new.pictures), names=(*old.names, *new.names))
    return Feed(both, plan, order, (0, len(old.pictures)))


def replay_order(old: int, new: int, settings: Training, share: float) -> Array:
    """Sample indices (steps, batch_size): the first `old` samples are the old ones, the `new` ones follow them.

    Each part of a batch that is computed at once holds the same number of old samples, in front of the new ones. Of
    either sort every sample is shown once before any comes again.
    """
    parts = settings.accumulate * ranks.count()
    each = settings.batch_size // parts
    front = count_old(each, share)
    if abs(front - share * each) > _ROUNDING:
        raise RecipeError(
            f"replay.share: expected whole images of each of {parts} parts of a batch of {settings.batch_size}, got "
            f"{share:g}; mend it, or batch_size"
        )
    # Of another seed: else the i-th old sample would come with the i-th new one, where both are as many.
    ours = _shares(new, settings.model_copy(update={"seed": settings.seed + 1}), parts, each - front) + old
    if not front:
        return ours.reshape(len(ours), -1)
    theirs = _shares(old, settings, parts, front)
    return np.concatenate([theirs, ours], axis=2).reshape(len(ours), -1)


def _shares(count: int, settings: Training, parts: int, each: int) -> Array:
    """Indices (steps, parts, each) of so many samples."""
    order: Array = batch_order(count, settings.model_copy(update={"batch_size": parts * each}))
    return order.reshape(len(order), parts, each)


_ROUNDING = 1e-9
