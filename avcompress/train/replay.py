"""Batches of which a share are old samples, so that what was learned from them is not forgotten.

Source: experience replay, Rolnick et al., arXiv:1811.11682.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

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


def old_places(images: int, share: Fraction) -> NDArray[np.bool_]:
    """Which of so many images of a batch are old: of a share of 2/3 the first two of every three.

    Every part of a batch that is as long as a multiple of the denominator has the same share.
    """
    places: NDArray[np.bool_] = np.arange(images) % share.denominator < share.numerator
    return places


def replaying(old: Dataset, new: Dataset, settings: Training, share: Fraction) -> Feed:
    """Batches that are old by a share, in an order that the settings' seed gives; `epochs` counts the new samples.

    Both datasets are of one preprocessing. Raises RecipeError where the processes and parts of a step cannot all have
    the same whole number of old samples.
    """
    plan = settled(settings, round(len(new.pictures) / (1 - share)))
    order = replay_order(len(old.pictures), len(new.pictures), plan, share)
    both = replace(new, pictures=Both(old.pictures, new.pictures), names=(*old.names, *new.names))
    return Feed(both, plan, order, (0, len(old.pictures)))


def replay_order(old: int, new: int, settings: Training, share: Fraction) -> Array:
    """Sample indices (steps, batch_size): the first `old` samples are the old ones, the `new` ones follow them.

    It depends on neither the processes nor the parts of a step. Of either sort every sample is shown once before any
    comes again.
    """
    parts = settings.accumulate * ranks.count()
    if settings.batch_size // parts % share.denominator:
        raise RecipeError(
            f"replay.share: expected whole images of each of {parts} parts of a batch of {settings.batch_size}, got "
            f"{float(share):g}; mend it, or batch_size"
        )
    places = old_places(settings.batch_size, share)
    order = np.empty((settings.count_steps(0), settings.batch_size), np.int64)
    # Of another seed: else the i-th old sample would come with the i-th new one, where both are as many.
    order[:, ~places] = old + _order(new, settings, int((~places).sum()), settings.seed + 1)
    if places.any():
        order[:, places] = _order(old, settings, int(places.sum()), settings.seed)
    return order


def _order(count: int, settings: Training, each: int, seed: int) -> Array:
    """Indices (steps, each) of so many samples."""
    return batch_order(count, settings.model_copy(update={"batch_size": each, "seed": seed}))
