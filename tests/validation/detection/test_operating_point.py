import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.spec import DataError
from validation.detection import BoxTally, restoring_threshold, tally_boxes
from validation.predictions import BoxPredictions
from validation.truth import Objects, Truth

CLASSES = ("car", "person")
SIDE = 40.0


def tally(
    objects: list[tuple[int, float, int]], found: list[tuple[int, float, float, int]], threshold: float, images: int
) -> BoxTally:
    """Squares of one row: objects (image, left, class), detections (image, left, score, class)."""
    names = tuple(f"{index}.jpg" for index in range(images))
    truth = Truth(
        names,
        CLASSES,
        "",
        np.zeros((images, 2), np.int32),
        np.zeros(images, np.float32),
        {},
        Objects(
            np.array([image for image, _, _ in objects], np.int64),
            squares([left for _, left, _ in objects]),
            np.array([label for _, _, label in objects], np.int64),
            np.zeros(len(objects), np.bool_),
            np.full(len(objects), SIDE**2),
            {},
        ),
    )
    predictions = BoxPredictions(
        names,
        np.array([image for image, _, _, _ in found], np.int64),
        squares([left for _, left, _, _ in found]),
        np.array([score for _, _, score, _ in found], np.float32),
        np.array([label for _, _, _, label in found], np.int64),
    )
    return tally_boxes(truth, predictions, threshold)


def squares(lefts: list[float]) -> np.ndarray:
    return np.array([(left, 0.0, left + SIDE, SIDE) for left in lefts], np.float32).reshape(-1, 4)


def figures(made: BoxTally, weights: list[float]) -> dict[str, float]:
    return {name: float(values[0]) for name, values in made.figures(np.array(weights)[:, None]).items()}


OBJECTS = [(0, 0.0, 0), (0, 100.0, 0), (1, 0.0, 0), (1, 200.0, 1)]
FOUND = [
    (0, 0.0, 0.9, 0),  # a hit
    (0, 105.0, 0.8, 0),  # a hit: 35 of 45 pixels
    (0, 0.0, 0.7, 0),  # the object is taken: a false alarm
    (0, 300.0, 0.4, 0),  # below the threshold
    (1, 25.0, 0.6, 0),  # 15 of 65 pixels: a false alarm, and a miss
    (1, 200.0, 0.5, 1),  # a hit, at the threshold
]


def test_the_detector_at_work_by_hand():
    found = figures(tally(OBJECTS, FOUND, 0.5, 3), [1, 1, 1])
    assert found["precision"] == pytest.approx(3 / 5)
    assert found["recall"] == pytest.approx(3 / 4)
    assert found["false_alarms"] == pytest.approx(2 / 3)
    assert found["F1"] == pytest.approx(6 / 9)
    assert found["precision/car"] == pytest.approx(2 / 4)
    assert found["recall/car"] == pytest.approx(2 / 3)
    assert found["false_alarms/car"] == pytest.approx(2 / 3)
    assert (found["precision/person"], found["recall/person"], found["false_alarms/person"]) == (1.0, 1.0, 0.0)


def test_an_image_drawn_twice_counts_twice():
    found = figures(tally(OBJECTS, FOUND, 0.5, 3), [2, 1, 0])
    assert found["precision"] == pytest.approx(5 / 8)
    assert found["recall"] == pytest.approx(5 / 6)
    assert found["false_alarms"] == pytest.approx(3 / 3)


def test_nothing_found_has_no_precision_and_no_calibration():
    found = figures(tally(OBJECTS, [], 0.5, 2), [1, 1])
    assert math.isnan(found["precision"])
    assert math.isnan(found["ece"])
    assert (found["recall"], found["false_alarms"], found["F1"]) == (0.0, 0.0, 0.0)


def test_calibration_by_hand():
    # Two bins: 0.9 twice, one hit; 0.6 once, a hit. (|1.8 - 1| + |0.6 - 1|) / 3.
    objects = [(0, 0.0, 0), (0, 100.0, 0)]
    found = [(0, 0.0, 0.9, 0), (0, 200.0, 0.9, 0), (0, 100.0, 0.6, 0), (0, 300.0, 0.3, 0)]
    assert figures(tally(objects, found, 0.5, 1), [1])["ece"] == pytest.approx((0.8 + 0.4) / 3, abs=1e-6)


def test_scores_that_are_true_are_calibrated():
    objects = [(image, 0.0, 0) for image in range(100)]
    found = [(image, 0.0 if image < 70 else 200.0, 0.7, 0) for image in range(100)]
    assert figures(tally(objects, found, 0.5, 100), [1] * 100)["ece"] == pytest.approx(0.0, abs=1e-6)


def test_the_threshold_that_restores_a_precision_by_hand():
    made = tally(OBJECTS, FOUND, 0.5, 3)
    # Best first: hit, hit, false, false, hit, false.
    assert restoring_threshold(made, 1.0) == pytest.approx(0.8)
    assert restoring_threshold(made, 0.6) == pytest.approx(0.5)
    assert restoring_threshold(made, 0.5) == pytest.approx(0.4)
    assert math.isnan(restoring_threshold(tally(OBJECTS, [(0, 300.0, 0.9, 0), *FOUND[1:2]], 0.5, 3), 0.9))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 100.0, 300.0]), st.integers(1, 8)), max_size=12),
    st.floats(0, 1),
)
def test_no_lower_threshold_has_the_precision(drawn, precision):
    found = sorted((image, left, score / 8, 0) for image, left, score in drawn)
    made = tally(OBJECTS, found, 0.0, 3)
    restored = restoring_threshold(made, precision)
    for threshold in {score for _, _, score, _ in found}:
        reached = figures(tally(OBJECTS, found, threshold, 3), [1, 1, 1])["precision"]
        if threshold == restored:
            assert reached >= precision
        elif math.isnan(restored) or threshold < restored:
            assert reached < precision


def test_predictions_of_other_images_and_labels_without_boxes_are_refused():
    truth = Truth(("a.jpg",), CLASSES, "", np.zeros((1, 2), np.int32), np.zeros(1, np.float32), {}, masks=(b"",))
    nothing = BoxPredictions(("b.jpg",), np.zeros(0, np.int64), squares([]), np.zeros(0, np.float32), np.zeros(0, int))
    with pytest.raises(DataError, match="validation labels: expected labelled boxes, got none"):
        tally_boxes(truth, nothing, 0.5)
    one = Objects(np.zeros(1, np.int64), squares([0.0]), np.zeros(1, np.int64), np.zeros(1, np.bool_), np.ones(1), {})
    with pytest.raises(DataError, match=r"predictions: expected those of the 1 labelled images, in their order"):
        tally_boxes(replace(truth, objects=one, masks=None), nothing, 0.5)
