"""Confidence intervals of figures of a set of images, by drawing the images anew.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13, the percentile interval; Davison and
Hinkley, "Bootstrap Methods and their Application", 1997, section 5.2, the basic one. What is drawn are images, not
objects: objects of one image are not independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avcompress.spec import Array

MEASURED_SHARE = 0.9
"""Of the resamples that must tell a figure for it to get an interval; a class in two images of many is in fewer."""


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its confidence interval; NaN where nothing was there to measure it on."""

    value: float
    low: float
    high: float


def resample_weights(images: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """How often each image is drawn in each resample, (images, resamples): as many draws as images, with replacement.

    The same for the same arguments, on every machine.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, images), np.uint16)
    for resample in range(resamples):
        weights[resample] = np.bincount(rng.integers(0, images, images), minlength=images)
    return np.ascontiguousarray(weights.T)


def percentile(point: float, samples: Array, confidence: float) -> Estimate:
    """A figure with the interval between percentiles of its resamples: for differences, which have little bias.

    Args:
        point: the figure of the images as they are.
        samples: (R,), of each resample; NaN where it had nothing to measure, which is left out.
        confidence: two-sided, such as 0.95.

    The ends are NaN where too few resamples are left to tell them: less than MEASURED_SHARE of them, or so few that
    not one of them lies beyond an end. An interval that would leave the figure itself outside is widened to it: a draw
    repeats images, and figures such as AP of a class in few of them come out better, or worse, in nearly all draws.
    """
    measured = samples[~np.isnan(samples)]
    tail = (1 - confidence) / 2
    too_few = measured.size < MEASURED_SHARE * samples.size or measured.size * tail < 1 - 1e-9
    if math.isnan(point) or too_few:
        return Estimate(float(point), math.nan, math.nan)
    low, high = np.quantile(measured, (tail, 1 - tail))
    return Estimate(float(point), min(float(low), float(point)), max(float(high), float(point)))


def basic(point: float, samples: Array, confidence: float) -> Estimate:
    """A figure with its percentile interval mirrored at the figure: for figures that a small set makes too high.

    A resample holds fewer different images than the set, as the set holds fewer than the world: by as much as the
    resamples' AP is above the set's, the set's is above the world's. The arguments are those of `percentile`.
    """
    mirrored = percentile(point, samples, confidence)
    return Estimate(mirrored.value, 2 * mirrored.value - mirrored.high, 2 * mirrored.value - mirrored.low)
