import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from avcompress.spec import DataError, EngineError
from calibration.sample import VOID, Sample
from validation.segmentation import confusion, evaluate_segmentation, segmentation_metric_names

CLASSES = ("road", "car", "sky")


def sample(mask):
    mask = None if mask is None else np.array(mask, np.uint8)
    return Sample("a.png", np.zeros((1, 1, 3), np.uint8), mask=mask)


def evaluate(*pairs):
    return evaluate_segmentation([(sample(label), np.array(mask, np.uint8)) for label, mask in pairs], CLASSES)


def test_two_images_by_hand():
    # road: 2 hits, 1 missed to void, 1 gained from car -> 2/4; car: 1 hit, 1 lost -> 1/2; sky: nowhere.
    found = evaluate(([[0, 0, 0, VOID]], [[0, 0, 3, 1]]), ([[1, 1]], [[1, 0]]))
    assert found.metrics["IoU/road"] == 0.5
    assert found.metrics["IoU/car"] == 0.5
    assert math.isnan(found.metrics["IoU/sky"])
    assert found.metrics["mIoU"] == 0.5
    assert found.metrics["pixel_accuracy"] == 0.6
    assert found.confusion == ((2, 0, 0, 1), (1, 1, 0, 0), (0, 0, 0, 0))
    assert found.images == 2
    assert tuple(found.metrics) == segmentation_metric_names(CLASSES)


def test_pixels_are_pooled_over_the_set_and_not_averaged_by_image():
    many = ([[0] * 9 + [1]], [[0] * 10])
    one = ([[0, 1]], [[1, 1]])
    found = evaluate(many, one)
    assert found.metrics["IoU/road"] == 9 / 11
    assert found.metrics["IoU/car"] == 1 / 3


def test_a_class_that_only_the_predictions_hold_counts_as_zero():
    assert evaluate(([[0, 0]], [[0, 2]])).metrics["IoU/sky"] == 0.0


def test_what_is_predicted_on_unlabelled_pixels_is_not_judged():
    assert evaluate(([[0, VOID]], [[0, 2]])).metrics == evaluate(([[0, VOID]], [[0, 1]])).metrics | {
        "IoU/sky": pytest.approx(math.nan, nan_ok=True),
        "IoU/car": pytest.approx(math.nan, nan_ok=True),
    }


def oracle(label, predicted, classes):
    """Straight from the definition, with sets of pixels."""
    ious = []
    for index in range(classes):
        truth = {p for p in np.ndindex(label.shape) if label[p] == index}
        claim = {p for p in np.ndindex(label.shape) if predicted[p] == index and label[p] != VOID}
        if truth | claim:
            ious.append(len(truth & claim) / len(truth | claim))
    return sum(ious) / len(ious)


labels = st.sampled_from([0, 1, 2, VOID])
masks = st.tuples(
    arrays(np.uint8, (4, 5), elements=labels),
    arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 3, 11, VOID])),
)


@given(masks)
@settings(max_examples=60)
def test_it_is_the_definition_on_random_masks(pair):
    label, predicted = pair
    if (label == VOID).all():
        with pytest.raises(DataError, match="expected a labelled pixel in 1 masks"):
            evaluate((label, predicted))
        return
    found = evaluate((label, predicted))
    assert found.metrics["mIoU"] == pytest.approx(oracle(label, predicted, 3), abs=1e-12)
    assert np.sum(found.confusion) == (label != VOID).sum()
    assert all(math.isnan(value) or 0 <= value <= 1 for value in found.metrics.values())


@given(arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2])))
def test_a_perfect_prediction_has_iou_1_for_every_class_that_occurs(label):
    found = evaluate((label, label))
    assert found.metrics["mIoU"] == found.metrics["pixel_accuracy"] == 1.0


def test_labels_and_predictions_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="expected a labelled mask, got none"):
        evaluate((None, [[0]]))
    with pytest.raises(EngineError, match=r"expected a mask of \(1, 2\), got \(1, 1\)"):
        evaluate(([[0, 1]], [[0]]))
    with pytest.raises(DataError, match="below 3 or 255, got 7"):
        confusion(np.array([[7]], np.uint8), np.array([[0]], np.uint8), 3)
    with pytest.raises(DataError, match="in 0 masks"):
        evaluate()
