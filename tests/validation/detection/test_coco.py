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
from validation.detection import (
    BoxTally,
    Within,
    box_metric_names,
    detection_metric_names,
    evaluate_detection,
    tally_boxes,
)
from validation.predictions import BoxPredictions
from validation.truth import Objects
from validation.truth import Truth as LabelledSet

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


def tally(pairs: list[tuple[list[Truth], list[Found]]], within: Within | None = None) -> BoxTally:
    both = [pair(*each) for each in pairs]
    names = tuple(f"{index}.jpg" for index in range(len(both)))
    boxes, found = [sample.boxes for sample, _ in both], [detections for _, detections in both]
    columns = [np.concatenate([getattr(each, name) for each in boxes]) for name in ("xyxy", "labels", "ignore", "area")]
    objects = Objects(np.repeat(np.arange(len(both)), [len(each.labels) for each in boxes]), *columns, {})
    predictions = BoxPredictions(
        names,
        np.repeat(np.arange(len(both)), [len(each.labels) for each in found]),
        *(np.concatenate([getattr(each, name) for each in found]) for name in ("xyxy", "scores", "labels")),
    )
    sizes, brightness = np.zeros((len(both), 2), np.int32), np.zeros(len(both), np.float32)
    labels = LabelledSet(names, CLASSES, "", sizes, brightness, {}, objects)
    return tally_boxes(labels, predictions, 0.5, within)


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


def untied(pairs: list[tuple[list[Truth], list[Found]]]) -> list[tuple[list[Truth], list[Found]]]:
    """The same with scores that differ within an image, not between images."""
    return [(gt, [item._replace(score=1 / (2 + index)) for index, item in enumerate(dt)]) for gt, dt in pairs]


@given(st.lists(images(), min_size=2, max_size=5), st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5)))
@settings(max_examples=40, deadline=None)
def test_weights_equal_pycocotools_on_images_that_are_repeated(pairs, draws):
    pairs = untied(pairs)
    if all(truth.ignore for gt, _ in pairs for truth in gt):
        return
    columns = [draw[: len(pairs)] for draw in draws] + [[1] * len(pairs)]
    found = tally(pairs).figures(np.array(columns).T)
    assert tuple(found) == box_metric_names(CLASSES, kitti=False)
    for column, draw in enumerate(columns):
        repeated = [each for each, times in zip(pairs, draw, strict=True) for _ in range(times)]
        of_resample = {name: found[name][column] for name in detection_metric_names(CLASSES)}
        assert of_resample == pytest.approx(expected(repeated, CLASSES), abs=1e-6, nan_ok=True)


def test_weights_need_not_be_whole():
    # Half of the second image's false alarm, above one and a half hits: 1.5 of 2 detections.
    found = tally([([Truth(BOX)], [Found(BOX)]), ([], [Found(FAR, 0.9)])]).figures(np.array([[1.5], [0.5]]))
    assert found["AP"] == pytest.approx(0.75)
    assert found["precision"] == pytest.approx(0.75)
    assert found["false_alarms"] == pytest.approx(0.25)


@given(st.lists(images(), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_part_by_size_has_the_figures_of_coco_for_that_size(pairs):
    pairs = [([truth._replace(area=None) for truth in gt], dt) for gt, dt in pairs]
    if all(truth.ignore for gt, _ in pairs for truth in gt):
        return
    whole = tally(pairs).figures(np.ones((len(pairs), 1)))

    def medium(items: list[Truth] | list[Found]) -> list[bool]:
        sides = [(x2 - x, y2 - y) for x, y, x2, y2 in (item.xyxy for item in items)]
        return [32**2 <= width * height <= 96**2 for width, height in sides]

    objects = np.array([inside for gt, _ in pairs for inside in medium(gt)], np.bool_)
    detections = np.array([inside for _, dt in pairs for inside in medium(dt)], np.bool_)
    part = tally(pairs, Within(objects, detections)).figures(np.ones((len(pairs), 1)))
    assert part["AP"] == pytest.approx(whole["AP_medium"], nan_ok=True)


def test_a_part_without_objects_has_no_figures():
    part = tally([([Truth(BOX)], [Found(BOX)])], Within(np.zeros(1, np.bool_)))
    found = part.figures(np.ones((1, 1)))
    assert part.objects == 0
    assert math.isnan(found["AP"][0])
    assert math.isnan(found["recall"][0])


def test_of_one_class_in_one_image_only_the_best_hundred_count():
    many = [([Truth(BOX)], [Found(FAR, 0.9)] * 100 + [Found(BOX, 0.1), Found(BOX, 0.1, label=1)]), ([Truth(FAR)], [])]
    found = evaluate(*many)
    assert found["AP/car"] == 0.0
    assert found == pytest.approx(expected(many, CLASSES), abs=1e-6, nan_ok=True)


def test_an_image_that_is_not_drawn_takes_its_class_with_it():
    found = tally([([Truth(BOX)], [Found(BOX)]), ([Truth(BOX, 1)], [])]).figures(np.array([[1, 1], [1, 0]]))
    assert found["AP"] == pytest.approx([0.5, 1.0])
    assert found["AP/person"] == pytest.approx([0.0, math.nan], nan_ok=True)


def test_a_label_of_no_class_is_refused_unless_it_is_ignored():
    with pytest.raises(DataError, match="validation labels: expected class indices below 3, got 7"):
        evaluate(([Truth(BOX, 7), Truth(BOX)], []))
    assert evaluate(([Truth(BOX, 7, ignore=True), Truth(BOX)], [Found(BOX)]))["AP"] == 1.0
