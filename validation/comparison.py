"""A network beside its reference on the same labelled images: figures with confidence intervals, by slice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avcompress.contract import LESS_IS_BETTER, UNBOUNDED, Validation
from avcompress.spec import Array
from validation.bootstrap import Estimate, basic, percentile, resample_weights
from validation.detection import BoxTally, Within, restoring_threshold, tally_boxes
from validation.predictions import BoxPredictions, MaskPredictions, Predictions
from validation.segmentation import MaskTally, tally_bands
from validation.slices import EVERYWHERE, Slice, images_with_part, make_slices, objects_in_part
from validation.truth import Truth

__all__ = [
    "EVERYWHERE",
    "LESS_IS_BETTER",
    "Comparison",
    "Estimate",
    "SliceResult",
    "Thresholds",
    "compare_each",
    "compare_networks",
    "less_is_better",
]

FEWEST_IMAGES = 5
"""With objects, or with objects of the class, that a slice needs for an interval; fewer cannot tell how they vary."""

_AT_A_TIME = 500
"""Resamples: what bounds the memory."""


@dataclass(frozen=True)
class SliceResult:
    """One slice of the validation set.

    Attributes:
        images: the images that are in it or, of a slice of objects, that have one in it.
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
class Thresholds:
    """Score thresholds of detections.

    Attributes:
        deployed: the one that both networks are judged at.
        restoring: the lowest at which the network is as precise, over all classes, as the reference is at `deployed`;
            NaN where none is.
        precision: the network's there; NaN as well.
        recall: the network's there.
    """

    deployed: float
    restoring: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Comparison:
    """Every slice by its name, as contracts name it: all, size:small, weather:rain, fog:3.

    Attributes:
        slices: results by name.
        resamples: of the bootstrap.
        confidence: of the intervals, two-sided.
        thresholds: of detection; None of segmentation.
    """

    slices: Mapping[str, SliceResult]
    resamples: int
    confidence: float
    thresholds: Thresholds | None = None


def compare_networks(
    truth: Truth,
    reference: Predictions,
    network: Predictions,
    settings: Validation,
    threshold: float | None = None,
    corrupted: Mapping[str, tuple[Predictions, Predictions]] | None = None,
) -> Comparison:
    """Hold both networks' predictions of the same images against the labels, overall and in every slice.

    Every resample draws the same images for both networks and for all slices, so a drop's interval does not hold what
    the two have in common.

    Args:
        truth: the labels.
        reference: predictions of what the network should be as good as.
        network: predictions of the network that is judged.
        settings: which slices, how many resamples, how sure.
        threshold: the score from which the deployed network's detections count; of detection only, and needed there.
        corrupted: both networks' predictions of corrupted images with the same labels, by slice: fog:3.

    Raises:
        RecipeError: the settings ask for slices that the labels do not tell.
        DataError: there is nothing labelled, or a label is outside the class table.
        EngineError: predictions that cannot be judged.
        ValueError: the predictions are not of the same task and images.
    """
    given = {"network": network}
    found = compare_each(truth, reference, given, settings, threshold, {"network": corrupted or {}})
    return found["network"]


def compare_each(
    truth: Truth,
    reference: Predictions,
    networks: Mapping[str, Predictions],
    settings: Validation,
    threshold: float | None = None,
    corrupted: Mapping[str, Mapping[str, tuple[Predictions, Predictions]]] | None = None,
) -> dict[str, Comparison]:
    """Hold each of several networks against one reference, whose figures are made but once; see compare_networks.

    `networks` and `corrupted` are by what the networks are called.
    """
    pairs = itertools.chain.from_iterable(each.values() for each in (corrupted or {}).values())
    for found in (reference, *networks.values(), *itertools.chain.from_iterable(pairs)):
        if len(found.names) != len(truth.names):
            raise ValueError(f"predictions: expected {len(truth.names)} images, got {len(found.names)}")
    bench = _Bench(truth, settings, resample_weights(len(truth.names), settings.resamples, settings.seed), threshold)
    parts = make_slices(truth, settings)
    results = {}
    for name, network in networks.items():
        slices = bench.compare(parts, reference, network)
        for corruption, (before, after) in (corrupted or {}).get(name, {}).items():
            slices |= bench.compare((replace(parts[0], name=corruption),), before, after)
        thresholds = _thresholds(truth, reference, network, threshold)
        results[name] = Comparison(slices, settings.resamples, settings.confidence, thresholds)
    return results


def less_is_better(metric: str) -> bool:
    """Whether a metric, NAME or NAME/CLASS, is one of LESS_IS_BETTER."""
    return metric.partition("/")[0] in LESS_IS_BETTER


class _Figures(NamedTuple):
    """One network's figures in one slice.

    Attributes:
        held: what is labelled there and counts, by image and class: objects or pixels, (I, C).
        point: of the slice as it is, (1,) by metric.
        samples: of every resample, (R,) by metric; empty where nothing is labelled, without BY_SIZE but in the first.
    """

    held: Array
    point: Mapping[str, NDArray[np.float64]]
    samples: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class _Bench:
    """What all slices are judged with.

    Attributes:
        weights: (I, R), the bootstrap's draws.
        known: figures by slice, of references by their identity: their networks share them.
    """

    truth: Truth
    settings: Validation
    weights: Array
    threshold: float | None
    known: dict[int, list[_Figures]] = field(default_factory=dict)

    def compare(self, parts: tuple[Slice, ...], reference: Predictions, network: Predictions) -> dict[str, SliceResult]:
        """Every slice, the whole set first, that has anything labelled in it."""
        key = id(reference)
        if key not in self.known:
            self.known[key] = list(self.figures(parts, reference))
        results: dict[str, SliceResult] = {}
        for part, before, after in zip(parts, self.known[key], self.figures(parts, network), strict=True):
            if part.is_everything and results:
                results[part.name] = next(iter(results.values()))
            elif before.held.any():
                results[part.name] = self.result(part, before, after)
        return results

    def figures(self, parts: tuple[Slice, ...], found: Predictions) -> Iterator[_Figures]:
        """Of each slice, when it is asked for."""
        first: _Figures | None = None
        for part, tally in zip(parts, self.tallies(parts, found), strict=True):
            if part.is_everything and first is not None:
                yield first  # equal, and not made twice
                continue
            held = _held(part, self.truth, tally)
            once = part.images.astype(np.float64)[:, None]
            drawn = self.weights * part.images[:, None]
            samples = _resample(tally, drawn, sizes=first is None) if held.any() else {}
            each = _Figures(held, tally.figures(once), samples)
            first = first or each
            yield each

    def tallies(self, parts: tuple[Slice, ...], found: Predictions) -> Iterator[BoxTally | MaskTally]:
        """One for each slice, made when it is asked for."""
        if isinstance(found, MaskPredictions):
            bands = list(dict.fromkeys(part.band for part in parts))
            by_band = dict(zip(bands, tally_bands(self.truth, found, bands), strict=True))
            yield from (by_band[part.band] for part in parts)
        elif self.threshold is None:
            raise ValueError("comparison of detections: expected a score threshold, got None")
        else:
            yield from (_tally_boxes(part, self.truth, found, self.threshold) for part in parts)

    def result(self, part: Slice, before: _Figures, after: _Figures) -> SliceResult:
        """Figures, intervals and paired drops of one slice."""
        held = before.held
        sure = {metric: _tells_interval(metric, part, held, self.truth.classes) for metric in before.point}
        reference, network = (
            {
                name: self.figure(name, float(point[0]), each.samples.get(name), sure[name])
                for name, point in each.point.items()
            }
            for each in (before, after)
        )
        drop = {}
        for name in before.point:
            good, bad = (after, before) if less_is_better(name) else (before, after)
            point = float(good.point[name][0] - bad.point[name][0])
            samples = good.samples[name] - bad.samples[name] if name in good.samples else None
            drop[name] = self.drop(point, samples, sure[name])
        images = part.images if part.objects is None else images_with_part(part, self.truth)
        return SliceResult(int(images.sum()), int(held.sum()), reference, network, drop)

    def figure(self, metric: str, point: float, samples: Array | None, sure: bool) -> Estimate:
        """With an interval, inside what the metric can be, where it was resampled and is `sure` enough to have one."""
        if samples is None or not sure:
            return Estimate(point, math.nan, math.nan)
        found = basic(point, samples, self.settings.confidence)
        most = math.inf if metric.partition("/")[0] in UNBOUNDED else 1.0
        low, high = np.clip((found.low, found.high), 0.0, most)
        return Estimate(point, float(low), float(high))

    def drop(self, point: float, samples: Array | None, sure: bool) -> Estimate:
        """The same of a drop, which may be below 0."""
        if samples is None or not sure:
            return Estimate(point, math.nan, math.nan)
        return percentile(point, samples, self.settings.confidence)


def _tally_boxes(part: Slice, truth: Truth, found: BoxPredictions, threshold: float) -> BoxTally:
    if part.objects is not None:
        detections = part.detections(found) if part.detections else None
        return tally_boxes(truth, found, threshold, Within(part.objects, detections))
    if truth.objects is None or part.images.all():
        return tally_boxes(truth, found, threshold)
    # The other images count nothing; without their boxes, resampling a slice costs no more than its share of the set.
    own, seen = part.images[truth.objects.image], part.images[found.image]
    return tally_boxes(replace(truth, objects=truth.objects.keep(own)), found.keep(seen), threshold)


def _resample(tally: BoxTally | MaskTally, drawn: Array, sizes: bool) -> dict[str, Array]:
    """The figures of every resample, (R,) each; `sizes`: those by size, too, which take half the time."""
    chunks = []
    for start in range(0, drawn.shape[1], _AT_A_TIME):
        part = drawn[:, start : start + _AT_A_TIME]
        chunks.append(tally.figures(part, sizes) if isinstance(tally, BoxTally) else tally.figures(part))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _held(part: Slice, truth: Truth, tally: BoxTally | MaskTally) -> Array:
    """What is labelled in the slice and counts, by image and class: objects or pixels, (I, C)."""
    images, classes = len(truth.names), len(truth.classes)
    if isinstance(tally, MaskTally):
        return np.asarray(tally.labelled * part.images[:, None])
    if truth.objects is None:
        return np.zeros((images, classes), np.int64)
    inside = objects_in_part(part, truth)
    places = truth.objects.image[inside] * classes + truth.objects.labels[inside]
    return np.bincount(places, minlength=images * classes).reshape(images, classes)


def _tells_interval(metric: str, part: Slice, held: Array, classes: tuple[str, ...]) -> bool:
    """Whether the metric rests on enough images of the slice for its resamples to tell how it varies."""
    name, _, of = metric.partition("/")
    if name == "false_alarms":  # which need no object
        return bool(part.images.sum() >= FEWEST_IMAGES)
    rests_on = held[:, classes.index(of)] if of else held.sum(axis=1)
    return bool(np.count_nonzero(rests_on) >= FEWEST_IMAGES)


def _thresholds(
    truth: Truth, reference: Predictions, network: Predictions, threshold: float | None
) -> Thresholds | None:
    if threshold is None or isinstance(reference, MaskPredictions) or isinstance(network, MaskPredictions):
        return None
    ones = np.ones((len(truth.names), 1))
    wanted = tally_boxes(truth, reference, threshold).figures(ones)["precision"][0]
    restoring = restoring_threshold(tally_boxes(truth, network, threshold), float(wanted))
    if math.isnan(restoring):
        return Thresholds(threshold, math.nan, math.nan, math.nan)
    there = tally_boxes(truth, network, restoring).figures(ones)
    return Thresholds(threshold, restoring, float(there["precision"][0]), float(there["recall"][0]))
