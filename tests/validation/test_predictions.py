from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.recipe import SceneSource
from avcompress.spec import DataError, EngineError
from calibration.sample import Sample
from calibration.source import open_source
from engines.postprocess import Detections
from validation.mask_png import decode_mask, encode_mask
from validation.predictions import BoxPredictions, MaskPredictions, check_predictions, collect
from validation.truth import Objects, Truth, read_truth

CLASSES = ("car", "person")


def detections(*rows):
    """Each row is left, top, right, bottom, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def sample(name):
    return Sample(name, np.zeros((40, 60, 3), np.uint8))


# --- gathering


def test_detections_are_gathered_image_after_image():
    found = collect(
        [
            (sample("a"), detections((1, 2, 3, 4, 0.5, 1))),
            (sample("b"), detections()),
            (sample("c"), detections((0, 0, 9, 9, 0.75, 0), (1, 1, 5, 5, 0.25, 1))),
        ],
        CLASSES,
    )

    assert isinstance(found, BoxPredictions)
    assert found.names == ("a", "b", "c")
    assert found.image.tolist() == [0, 2, 2]
    assert found.xyxy.tolist() == [[1, 2, 3, 4], [0, 0, 9, 9], [1, 1, 5, 5]]
    assert found.scores.tolist() == [0.5, 0.75, 0.25]
    assert found.labels.tolist() == [1, 0, 1]
    kinds = [str(column.dtype) for column in (found.image, found.xyxy, found.scores, found.labels)]
    assert kinds == ["int64", "float32", "float32", "int64"]


def test_a_network_that_finds_nothing_is_no_mistake():
    found = collect([(sample("a"), detections())], CLASSES)

    assert found.xyxy.shape == (0, 4)
    assert found.names == ("a",)


def test_masks_are_gathered_as_png():
    masks = [np.random.default_rng(n).integers(0, 3, (40, 60), np.uint8) for n in range(2)]

    found = collect([(sample(str(n)), mask) for n, mask in enumerate(masks)], CLASSES)

    assert isinstance(found, MaskPredictions)
    assert all((decode_mask(png) == mask).all() for png, mask in zip(found.masks, masks, strict=True))


def test_no_image_at_all_is_refused():
    with pytest.raises(DataError, match="expected at least one to predict on, got none"):
        collect([], CLASSES)


def test_a_class_beyond_the_table_names_the_image():
    with pytest.raises(EngineError, match=r"b: expected classes 0\.\.1, got 2; list the network's classes"):
        collect([(sample("a"), detections()), (sample("b"), detections((0, 0, 1, 1, 0.5, 2)))], CLASSES)


# --- checking

GOOD = ((1, 2, 30, 20, 0.5, 1), (1, 2, 30, 20, 0.5, 0), (1, 2, 30, 20, 0.25, 1), (0, 0, 60, 40, 1, 0))


def truth(*names, masks=None):
    count = len(names)
    none = np.zeros(0, np.int64)
    objects = Objects(none, np.zeros((0, 4), np.float32), none, none.astype(bool), none.astype(float), {})
    sizes = np.tile((40, 60), (count, 1)).astype(np.int32)
    brightness = np.zeros(count, np.float32)
    return Truth(names, CLASSES, "f" * 64, sizes, brightness, {}, None if masks else objects, masks)


def boxes(*images):
    """Predictions of images named a, b, ... from rows."""
    return collect([(sample("abcdef"[i]), detections(*rows)) for i, rows in enumerate(images)], CLASSES)


def refused(found, labels, message):
    with pytest.raises(DataError, match=message) as caught:
        check_predictions(found, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rows",
    [
        (),
        GOOD,
        ((-1, -1, 61, 41, 0.5, 0),),  # a pixel of rounding
        ((5, 5, 5, 5, 0.5, 0),),  # nothing of it is left, as at the border
        ((50, 10, 60, 20, 0.5, 0), (50, 10, 60, 20, 0.5, 0)),  # two that were cut off at the border
        ((1, 1, 2, 2, 1.003, 0),),  # half a step of 8 bit
    ],
)
def test_what_a_network_may_say_passes(rows):
    check_predictions(boxes((), rows), truth("a", "b"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((np.nan, 2, 3, 4, 0.5, 1), r"predictions of b: expected finite boxes and scores, got box \(nan, 2, 3, 4\)"),
        ((1, 2, np.inf, 4, 0.5, 1), "expected finite boxes and scores"),
        ((1, 2, 3, 4, np.nan, 1), "expected finite boxes and scores, .* score nan"),
        ((9, 2, 3, 4, 0.5, 1), "predictions of b: expected left <= right, top <= bottom, got box"),
        ((1, 9, 3, 4, 0.5, 1), "expected left <= right, top <= bottom"),
        (
            (1, 2, 61.5, 4, 0.5, 1),
            r"predictions of b: expected boxes inside the image, got box \(1, 2, 61\.5, 4\), class 1",
        ),
        ((1, 2, 3, 42, 0.5, 1), "expected boxes inside the image"),
        ((-2, 2, 3, 4, 0.5, 1), "expected boxes inside the image"),
        ((1, -2, 3, 4, 0.5, 1), "expected boxes inside the image"),
        ((1, 2, 3, 4, 1.1, 1), r"expected scores in 0-1, .* score 1\.1"),
        ((1, 2, 3, 4, -0.1, 1), "expected scores in 0-1"),
        (GOOD[0], "predictions of b: expected each detection once, got box .*; suppress what overlaps"),
    ],
)
def test_what_no_network_may_say_is_named_with_its_image(row, message):
    refused(boxes((), (*GOOD, row)), truth("a", "b"), message)


def test_the_same_detection_in_two_images_is_none_twice():
    check_predictions(boxes(GOOD, GOOD), truth("a", "b"))


def test_every_kind_of_mistake_is_counted():
    refused(boxes((), [(1, 2, 3, 4, 7, 0)] * 3), truth("a", "b"), "score 7, and 2 more; give probabilities")


def test_duplicates_are_found_in_any_order():
    found = boxes((GOOD[1], GOOD[0], (2, 2, 4, 4, 0.5, 0), GOOD[0], GOOD[1]))

    refused(found, truth("a"), "expected each detection once, .*, and 1 more")


@given(seed=st.integers(0, 1000))
def test_duplicates_are_those_that_a_set_tells(seed):
    rng = np.random.default_rng(seed)
    corners = rng.integers(1, 3, (12, 2)).astype(np.float32)
    labels, scores, image = rng.integers(0, 2, 12), rng.integers(1, 3, 12).astype(np.float32) / 4, np.arange(12) // 6
    found = BoxPredictions(("a", "b"), image, np.hstack((corners, corners + 3)), scores, labels)
    rows = list(zip(image.tolist(), map(tuple, corners.tolist()), scores.tolist(), labels.tolist(), strict=True))

    if len(set(rows)) == len(rows):
        check_predictions(found, truth("a", "b"))
    else:
        with pytest.raises(DataError, match="expected each detection once") as caught:
            check_predictions(found, truth("a", "b"))
        more = len(rows) - len(set(rows)) - 1
        assert (f", and {more} more;" if more else ";") in str(caught.value)


@pytest.mark.parametrize("label", [-1, 2, 80])
def test_classes_outside_the_table_are_refused(label):
    found = boxes((), GOOD)

    refused(replace(found, labels=np.full(4, label)), truth("a", "b"), f"expected classes 0..1, got .* class {label}")


def test_images_without_labels_and_labels_without_images_are_refused():
    refused(boxes((), GOOD), truth("a"), "predictions of b: expected images that the labels hold, got 1 of 2 that")
    refused(boxes(GOOD), truth("a", "b", "c"), "got none for 2, such as b; predict on it, or remove its labels")
    refused(boxes(GOOD, ()), truth("b", "a"), "expected images in the labels' order")
    refused(boxes(GOOD), truth(), "validation labels: expected at least one image, got none")


def test_boxes_for_masks_and_masks_for_boxes_are_refused():
    png = encode_mask(np.zeros((40, 60), np.uint8))

    refused(boxes(()), truth("a", masks=(png,)), "expected masks, as the labels are, got boxes")
    refused(MaskPredictions(("a",), (png,)), truth("a"), "expected boxes, as the labels are, got masks")


def test_masks_are_checked_for_their_size():
    png, small = (encode_mask(np.zeros((height, 60), np.uint8)) for height in (40, 20))

    check_predictions(MaskPredictions(("a",), (png,)), truth("a", masks=(png,)))
    labels = truth("a", "b", masks=(png, png))
    refused(MaskPredictions(("a", "b"), (png, small)), labels, "predictions of b: expected .* size, 60x40, got 60x20")
    refused(MaskPredictions(("a", "b"), (png, b"GIF")), labels, "predictions of b: expected a PNG")


def test_labels_taken_as_predictions_pass():
    labels = read_truth(open_source(SceneSource(format="scenes", count=4, size=(96, 160)), None))
    objects = labels.objects

    check_predictions(
        BoxPredictions(
            labels.names, objects.image, objects.xyxy, np.ones(len(objects.labels), np.float32), objects.labels
        ),
        labels,
    )
