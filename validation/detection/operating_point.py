"""The detector as it is deployed: what it finds, misses and makes up at its threshold, and whether its scores are true.

A hit overlaps its object by half or more. Scores are calibrated where, of the detections with a score of 0.8, eight of
ten are hits.

Source: expected calibration error of Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 3, of
detections after Küppers et al., Multivariate Confidence Calibration for Object Detection, CVPR workshops 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validation.detection.matches import Matches
from validation.detection.ranked import Bools, Floats, Ints
from validation.detection.weighting import count, count_by, ratio

BINS = 15
RATES = ("precision", "recall", "false_alarms", "F1")


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """The detections that count, best first, and the objects.

    Attributes:
        classes: how many there are.
        threshold: the score from which a detection is handed on.
        image: (K,) of the detections.
        label: (K,).
        score: (K,).
        hit: (K,) 1 for a hit, 0 for a false alarm.
        object_image: (N,) of the objects that count.
        object_label: (N,).
    """

    classes: int
    threshold: float
    image: Ints
    label: Ints
    score: NDArray[np.float32]
    hit: Floats
    object_image: Ints
    object_label: Ints


def operate(matches: Matches, inside: Bools, classes: int, threshold: float) -> OperatingPoint:
    """The detections of all sizes by the matches at the least overlap; (M,) `inside` are false alarms if unmatched."""
    found, objects, counts = matches.found, matches.objects, matches.counts[0]
    made = matches.made[:, 0, 0]
    detection, counted = matches.pairs.detection[made], counts[matches.pairs.object[made]]
    hit = np.zeros(len(found.labels), np.bool_)
    hit[detection[counted]] = True
    judged = inside.copy()
    judged[detection] = counted
    return OperatingPoint(
        classes,
        threshold,
        found.image[judged],
        found.labels[judged],
        found.scores[judged],
        hit[judged].astype(np.float64),
        objects.image[counts],
        objects.labels[counts],
    )


def rates(point: OperatingPoint, classes: Sequence[str], draws: Floats) -> dict[str, Floats]:
    """Each of RATES at the threshold, (R,) each, over all classes and NAME/CLASS; false alarms are an image's."""
    images = draws.sum(axis=1)
    kept = point.score >= point.threshold
    image, label, hit = point.image[kept], point.label[kept], point.hit[kept]
    hits = count_by(label, point.classes, image, draws, hit)
    alarms = count_by(label, point.classes, image, draws, 1 - hit)
    objects = count_by(point.object_label, point.classes, point.object_image, draws)
    overall = _rates(hits.sum(axis=0), alarms.sum(axis=0), objects.sum(axis=0), images)
    by_class = _rates(hits, alarms, objects, np.broadcast_to(images, hits.shape))
    return dict(overall) | {
        f"{name}/{each}": by_class[name][index] for name in RATES for index, each in enumerate(classes)
    }


def calibration_error(point: OperatingPoint, draws: Floats) -> Floats:
    """The mean distance of score and precision in 15 equal bins of the score, weighted by their detections: (R,).

    Of the detections at or above the threshold, all classes together; those below are never handed on, and so many
    that nothing else would show.
    """
    kept = point.score >= point.threshold
    image, score, hit = point.image[kept], point.score[kept].astype(np.float64), point.hit[kept]
    bins = np.clip(np.ceil(score * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.abs(count_by(bins, BINS, image, draws, score - hit))
    return ratio(gaps.sum(axis=0), count(image, draws))


def restore_precision(point: OperatingPoint, precision: float) -> float:
    """The lowest score threshold at which the precision over all classes is at least that; NaN where none is."""
    order = np.argsort(-point.score, kind="stable")
    score = point.score[order]
    reached = np.cumsum(point.hit[order]) / np.arange(1, len(order) + 1) >= precision
    # A threshold keeps all detections of the same score.
    last = np.append(np.diff(score) != 0, True)[: len(score)]
    fitting = np.flatnonzero(reached & last)
    return float(score[fitting[-1]]) if len(fitting) else float("nan")


def _rates(hits: Floats, alarms: Floats, objects: Floats, images: Floats) -> Mapping[str, Floats]:
    return {
        "precision": ratio(hits, hits + alarms),
        "recall": ratio(hits, objects),
        "false_alarms": ratio(alarms, images),
        "F1": ratio(2 * hits, hits + alarms + objects),
    }
