"""A network beside its reference on the same labelled images: figures with confidence intervals, by slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EVERYWHERE = "all"
"""The slice that is the whole set."""
LESS_IS_BETTER = ("false_alarms", "ece")
"""The metrics, of all classes or of one, that are better the smaller they are."""


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its confidence interval; NaN where nothing was there to measure it on."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SliceResult:
    """One slice of the validation set.

    Attributes:
        images: the images that have a part in it.
        objects: labelled objects in it that count; of segmentation, labelled pixels.
        reference: the reference's figures by metric.
        network: the network's.
        drop: how much worse the network is, paired image by image: reference minus network, or network minus reference
            where less is better.
    """

    images: int
    objects: int
    reference: Mapping[str, Estimate]
    network: Mapping[str, Estimate]
    drop: Mapping[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """Every slice by its name, as contracts name it: all, size:small, weather:rain, fog:3."""

    slices: Mapping[str, SliceResult]
    resamples: int
    confidence: float
