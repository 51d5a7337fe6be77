"""Counts and means where some images count twice and others not at all, as in the resamples of a bootstrap.

Weights are kept as draws, (R, I): a row a resample, so that what is summed along detections lies side by side.
"""

from __future__ import annotations

import numpy as np

from validation.detection.ranked import Bools, Floats, Ints


def count(images: Ints, draws: Floats, values: Floats | None = None) -> Floats:
    """The weighted number of things that lie in `images` (K,), or the sum of their `values`: (R,).

    Args:
        images: the image of each.
        draws: (R, I), how often each image counts.
        values: (K,); 1 each by default.
    """
    by_image = np.bincount(images, values, minlength=draws.shape[1]).astype(np.float64)
    total: Floats = draws @ by_image
    return total


def count_by(groups: Ints, size: int, images: Ints, draws: Floats, values: Floats | None = None) -> Floats:
    """The same for each of `size` groups: (size, R)."""
    order = np.argsort(groups, kind="stable")
    ends = np.searchsorted(groups[order], np.arange(size + 1))
    parts = [order[low:high] for low, high in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    rows = [count(images[part], draws, None if values is None else values[part]) for part in parts]
    return np.array(rows, np.float64).reshape(size, len(draws))


def ratio(part: Floats, whole: Floats) -> Floats:
    """NaN where the whole is 0."""
    share: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return share


def mean_known(values: Floats) -> Floats:
    """The mean over the first axis of what is not NaN; NaN where all is."""
    known: Bools = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))
