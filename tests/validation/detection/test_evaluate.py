import contextlib
import io
import json
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from avcompress.spec import DataError, EngineError
from calibration.sample import Boxes, Sample
from engines.postprocess import Detections
from validation.detection import detection_metric_names, evaluate_detection

CLASSES = ("car", "person", "dog")


class Truth(NamedTuple):
    xyxy: tuple[float, float, float, float]
    label: int = 0
    ignore: bool = False
    area: float | None = None


class Found(NamedTuple):
    xyxy: tuple[float, float, float, float]
    score: float = 0.5
    label: int = 0


def pair(truths: list[Truth], found: list[Found]) -> tuple[Sample, Detections]:
    xyxy = np.array([truth.xyxy for truth in truths], np.float32).reshape(-1, 4)
    sides = xyxy[:, 2:] - xyxy[:, :2]
    boxes = Boxes(
        xyxy,
        np.array([truth.label for truth in truths], np.int64),
        np.array([truth.ignore for truth in truths], np.bool_),
        np.array([own if (own := t.area) is not None else s.prod() for t, s in zip(truths, sides, strict=True)], float),
    )
    detections = Detections(
        np.array([item.xyxy for item in found], np.float32).reshape(-1, 4),
        np.array([item.score for item in found], np.float32),
        np.array([item.label for item in found], np.int64),
    )
    return Sample("a.jpg", np.zeros((1, 1, 3), np.uint8), boxes), detections


def evaluate(*pairs: tuple[list[Truth], list[Found]]) -> dict[str, float]:
    return dict(evaluate_detection([pair(*each) for each in pairs], CLASSES).metrics)


BOX, FAR = (10.0, 10.0, 50.0, 50.0), (200.0, 200.0, 240.0, 240.0)


def test_one_hit_of_two_objects_by_hand():
    # Recall reaches 0.5 at precision 1: 51 of the 101 recall points are 1, the others 0.
    found = evaluate(([Truth(BOX), Truth(FAR)], [Found(BOX)]))
    assert [found[name] for name in ("AP", "AP50", "AP75", "AP/car")] == pytest.approx([51 / 101] * 4)
    assert found["AR"] == 0.5
    assert found["AP_medium"] == pytest.approx(51 / 101)  # 40 x 40 px
    assert math.isnan(found["AP_small"])
    assert math.isnan(found["AP_large"])


def test_a_hit_at_iou_0_6_counts_at_the_thresholds_up_to_it():
    # 40 x 40 against 40 x 24 inside it: IoU 0.6, so 0.50, 0.55 and 0.60 of the ten thresholds.
    found = evaluate(([Truth(BOX)], [Found((10.0, 10.0, 50.0, 34.0))]))
    assert found["AP50"] == 1.0
    assert found["AP75"] == 0.0
    assert found["AP"] == pytest.approx(0.3)


def test_a_false_alarm_above_the_hit_halves_the_precision():
    assert evaluate(([Truth(BOX)], [Found(FAR, 0.9), Found(BOX, 0.8)]))["AP"] == pytest.approx(0.5)


def test_a_class_without_labels_is_nan_and_left_out_of_the_mean():
    found = evaluate(([Truth(BOX)], [Found(BOX), Found(BOX, 0.9, label=2)]))
    assert found["AP"] == 1.0
    assert math.isnan(found["AP/person"])
    assert math.isnan(found["AP/dog"])
    assert math.isnan(found["AP50/dog"])


def test_detections_on_ignored_objects_count_neither_way():
    ignored = Truth((100.0, 100.0, 200.0, 200.0), ignore=True)
    inside = [Found((110.0, 110.0, 130.0, 130.0), 0.9), Found((150.0, 150.0, 170.0, 170.0), 0.8)]
    assert evaluate(([Truth(BOX), ignored], [*inside, Found(BOX, 0.7)]))["AP"] == 1.0


def test_an_ignored_object_outside_the_class_table_is_ignored_for_every_class():
    ignored = Truth((100.0, 100.0, 200.0, 200.0), label=-1, ignore=True)
    false_alarms = [Found((110.0, 110.0, 190.0, 190.0), 0.9, label) for label in (0, 1)]
    hits = [Found(BOX, 0.7, label) for label in (0, 1)]
    assert evaluate(([Truth(BOX, 0), Truth(BOX, 1), ignored], [*false_alarms, *hits]))["AP"] == 1.0


def test_nothing_found_is_zero_and_images_without_objects_are_fine():
    found = evaluate_detection([pair([Truth(BOX)], []), pair([], []), pair([], [Found(FAR)])], CLASSES)
    assert (found.metrics["AP"], found.metrics["AR"]) == (0.0, 0.0)
    assert (found.images, found.objects) == (3, 1)
    assert evaluate(([Truth(BOX)], []))["AP"] == 0.0


def test_a_false_alarm_on_an_image_without_objects_counts():
    assert evaluate(([Truth(BOX)], [Found(BOX, 0.5)]), ([], [Found(FAR, 0.9)]))["AP"] == pytest.approx(0.5)


def test_no_objects_at_all_is_an_error_and_not_a_figure():
    with pytest.raises(DataError, match="expected an object to find in 1 images, got none"):
        evaluate(([Truth(BOX, ignore=True)], [Found(BOX)]))
    with pytest.raises(DataError, match="in 0 images"):
        evaluate()
    with pytest.raises(DataError, match=r"a.jpg: expected labelled boxes, got none"):
        evaluate_detection([(Sample("a.jpg", np.zeros((1, 1, 3), np.uint8)), pair([], [])[1])], CLASSES)


@pytest.mark.parametrize("wrong", [Found((math.nan, 0, 1, 1)), Found((0, 0, math.inf, 1)), Found(BOX, math.nan)])
def test_boxes_that_are_not_finite_are_the_engines_fault(wrong):
    with pytest.raises(EngineError, match=r"a.jpg: expected finite boxes and scores"):
        evaluate(([Truth(BOX)], [wrong]))


def test_a_class_outside_the_table_is_refused():
    with pytest.raises(EngineError, match="expected class indices below 3, got 3"):
        evaluate(([Truth(BOX)], [Found(BOX, 0.5, label=3)]))


def pycocotools(pairs: list[tuple[list[Truth], list[Found]]], classes: int) -> tuple[Any, Any]:
    """The official evaluation of the same boxes: (precision, recall)."""
    truths: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (gt, dt) in enumerate(pairs, start=1):
        for truth in gt:
            x, y, x2, y2 = (float(np.float32(value)) for value in truth.xyxy)
            area = (x2 - x) * (y2 - y) if truth.area is None else truth.area
            truths.append({"id": len(truths) + 1, "image_id": image, "category_id": truth.label, "area": area,
                           "bbox": [x, y, x2 - x, y2 - y], "iscrowd": int(truth.ignore)})  # fmt: skip
        for item in dt:
            x, y, x2, y2 = (float(np.float32(value)) for value in item.xyxy)
            results.append({"image_id": image, "category_id": item.label, "bbox": [x, y, x2 - x, y2 - y],
                            "score": float(np.float32(item.score)), "id": len(results) + 1, "iscrowd": 0,
                            "area": (x2 - x) * (y2 - y)})  # fmt: skip
    images = [{"id": index + 1} for index in range(len(pairs))]
    categories = [{"id": index} for index in range(classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truths, results):
            side = COCO()
            side.dataset = {"images": images, "categories": categories, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        judge = COCOeval(*sides, "bbox")
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][..., -1], judge.eval["recall"][..., -1]


def mean(values: Any) -> float:
    kept = values[values > -1]
    return float(kept.mean()) if kept.size else math.nan


def expected(pairs: list[tuple[list[Truth], list[Found]]], classes: tuple[str, ...]) -> dict[str, float]:
    precision, recall = pycocotools(pairs, len(classes))
    return {
        "AP": mean(precision[..., 0]),
        "AP50": mean(precision[0, ..., 0]),
        "AP75": mean(precision[5, ..., 0]),
        "AP_small": mean(precision[..., 1]),
        "AP_medium": mean(precision[..., 2]),
        "AP_large": mean(precision[..., 3]),
        "AR": mean(recall[..., 0]),
        **{f"AP/{name}": mean(precision[:, :, index, 0]) for index, name in enumerate(classes)},
        **{f"AP50/{name}": mean(precision[0, :, index, 0]) for index, name in enumerate(classes)},
    }


corner, side = st.integers(0, 300), st.integers(1, 200)
boxes = st.builds(lambda x, y, w, h: (float(x), float(y), float(x + w), float(y + h)), corner, corner, side, side)
truths = st.builds(Truth, boxes, st.integers(0, 2), st.booleans())
scores = st.integers(1, 8).map(lambda eighths: eighths / 8)  # few values, so that ties occur


@st.composite
def images(draw: st.DrawFn) -> tuple[list[Truth], list[Found]]:
    gt = draw(st.lists(truths, max_size=6))
    near = [
        Found(tuple(value + draw(st.integers(-4, 4)) for value in truth.xyxy), draw(scores), truth.label)
        for truth in gt
        if draw(st.booleans())
    ]
    far = draw(st.lists(st.builds(Found, boxes, scores, st.integers(0, 2)), max_size=4))
    return gt, [item for item in near if item.xyxy[2] > item.xyxy[0] and item.xyxy[3] > item.xyxy[1]] + far


@given(st.lists(images(), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_it_equals_pycocotools_on_random_boxes(pairs):
    if all(truth.ignore for gt, _ in pairs for truth in gt):
        return
    found = evaluate(*pairs)
    assert found == pytest.approx(expected(pairs, CLASSES), abs=1e-6, nan_ok=True)
    assert tuple(found) == detection_metric_names(CLASSES)


def test_it_equals_pycocotools_on_real_labels_with_shaken_boxes(data_root):
    labels = json.loads((data_root / "coco_mini" / "annotations" / "instances_val2017.json").read_text())
    order = {category["id"]: index for index, category in enumerate(labels["categories"])}
    classes = tuple(category["name"] for category in labels["categories"])
    rng = np.random.default_rng(5)
    by_image: dict[int, tuple[list[Truth], list[Found]]] = {image["id"]: ([], []) for image in labels["images"]}
    for item in labels["annotations"]:
        x, y, w, h = item["bbox"]
        label, crowd = order[item["category_id"]], bool(item["iscrowd"])
        gt, dt = by_image[item["image_id"]]
        gt.append(Truth((x, y, x + w, y + h), label, crowd, item["area"]))
        for _ in range(int(rng.integers(0, 3))):
            dx, dy, dw, dh = rng.normal(0, 0.08, 4) * (w, h, w, h)
            box = (x + dx, y + dy, x + dx + max(1.0, w + dw), y + dy + max(1.0, h + dh))
            dt.append(Found(box, float(rng.random()), label if rng.random() < 0.9 else int(rng.integers(80))))
    pairs = list(by_image.values())
    found = evaluate_detection([pair(*each) for each in pairs], classes)
    assert found.images == 158
    assert 0.1 < found.metrics["AP"] < 0.9
    assert dict(found.metrics) == pytest.approx(expected(pairs, classes), abs=1e-6, nan_ok=True)
