"""COCO average precision of detections, by faster-coco-eval (the C++ of pycocotools' protocol, without its prints).

Source: https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from numpy.typing import NDArray

from avcompress.spec import Array, DataError, EngineError

if TYPE_CHECKING:
    from calibration.sample import Boxes, Sample
    from engines.postprocess import Detections

MAX_DETECTIONS = 100
OVERALL = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")


@dataclass(frozen=True)
class DetectionMetrics:
    """COCO figures by name, 0-1, and how much they rest on.

    Attributes:
        metrics: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR (100 detections an image), then AP/<class> and
            AP50/<class>. NaN where the labels hold no such object; such a class is left out of every mean.
        images: the number of images.
        objects: the number of labelled objects, ignored ones apart.
    """

    metrics: Mapping[str, float]
    images: int
    objects: int


def detection_metric_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names that evaluate_detection gives its figures."""
    return (*OVERALL, *(f"AP/{name}" for name in classes), *(f"AP50/{name}" for name in classes))


def evaluate_detection(pairs: Iterable[tuple[Sample, Detections]], classes: Sequence[str]) -> DetectionMetrics:
    """COCO AP over all the pairs.

    An ignored object is a COCO crowd: a detection inside it counts neither way. An ignored object with a label outside
    the class table is ignored for every class. An object's size is its label's `area`, in square pixels of the image.

    Raises:
        DataError: a sample has no labels at all, or no sample has an object to be found.
        EngineError: a box or a score is not finite, or a label is outside the class table.
    """
    records = _Records(len(classes))
    for sample, detections in pairs:
        if sample.boxes is None:
            raise DataError(f"{sample.name}: expected labelled boxes, got none; give a labelled validation source")
        _check_finite(sample.name, detections, len(classes))
        records.add(sample.boxes, detections)
    objects = sum(not item["iscrowd"] for item in records.truths)
    if not objects:
        raise DataError(
            f"validation labels: expected an object to find in {records.images} images, got none; "
            "check the class names (`aliases`, `classes`)"
        )
    return DetectionMetrics(_figures(records, classes), records.images, objects)


def _check_finite(where: str, detections: Detections, classes: int) -> None:
    if not (np.isfinite(detections.xyxy).all() and np.isfinite(detections.scores).all()):
        raise EngineError(
            f"{where}: expected finite boxes and scores, got NaN or infinity; see whether the float network does too"
        )
    if detections.labels.size and not 0 <= detections.labels.min() <= detections.labels.max() < classes:
        raise EngineError(
            f"{where}: expected class indices below {classes}, got {int(detections.labels.max())}; "
            "give the network's own class table as `classes`"
        )


@dataclass
class _Records:
    """COCO annotations as they come in; ids count from 1, because faster-coco-eval takes 0 for 'unmatched'."""

    classes: int
    images: int = 0
    truths: list[dict[str, Any]] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)

    def add(self, boxes: Boxes, detections: Detections) -> None:
        """Append one image."""
        self.images += 1
        for box, label, ignore, area in zip(
            _xywh(boxes.xyxy), boxes.labels.tolist(), boxes.ignore.tolist(), boxes.area.tolist(), strict=True
        ):
            everywhere = ignore and not 0 <= label < self.classes
            for category in range(self.classes) if everywhere else (label,):
                self._append(self.truths, box, category, area=area, iscrowd=int(ignore))
        for box, label, score in zip(
            _xywh(detections.xyxy), detections.labels.tolist(), detections.scores.tolist(), strict=True
        ):
            self._append(self.found, box, label, area=box[2] * box[3], iscrowd=0, score=score)

    def _append(self, records: list[dict[str, Any]], box: list[float], category: int, **more: float) -> None:
        records.append({"id": len(records) + 1, "image_id": self.images, "category_id": category, "bbox": box, **more})


def _xywh(xyxy: Array) -> list[list[float]]:
    corners = np.asarray(xyxy, np.float64).reshape(-1, 4)
    boxes: list[list[float]] = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()
    return boxes


def _figures(records: _Records, classes: Sequence[str]) -> dict[str, float]:
    evaluation = COCOeval_faster(_coco(records, records.truths), _coco(records, records.found), iouType="bbox")
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU threshold, recall, class, size) and (IoU threshold, class, size); -1 where there is nothing to find.
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1]
    sizes = list(evaluation.params.areaRngLbl)
    everything = precision[..., sizes.index("all")]
    overall = {
        "AP": _mean(everything),
        "AP50": _mean(everything[0]),
        "AP75": _mean(everything[5]),
        **{f"AP_{size}": _mean(precision[..., sizes.index(size)]) for size in ("small", "medium", "large")},
        "AR": _mean(recall[..., sizes.index("all")]),
    }
    by_class = {f"AP/{name}": _mean(everything[:, :, index]) for index, name in enumerate(classes)}
    by_class_50 = {f"AP50/{name}": _mean(everything[0, :, index]) for index, name in enumerate(classes)}
    return overall | by_class | by_class_50


def _coco(records: _Records, annotations: list[dict[str, Any]]) -> COCO:
    # Without a copy the library appends each dict's own keys to it; the records are ours and thrown away afterwards.
    return COCO(
        {
            "images": [{"id": index + 1} for index in range(records.images)],
            "categories": [{"id": index} for index in range(records.classes)],
            "annotations": annotations,
        }
    )


def _mean(values: NDArray[np.float64]) -> float:
    kept = values[values > -1]
    return float(kept.mean()) if kept.size else float("nan")
