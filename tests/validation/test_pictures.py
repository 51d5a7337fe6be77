import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from calibration.sample import VOID, Sample
from engines.postprocess import Detections
from validation.pictures import LONG_SIDE, box_iou, matched, picture_boxes, picture_masks

CLASSES = ("car", "person")


def found(*rows):
    rows = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(rows[:, :4].astype(np.float32), rows[:, 4].astype(np.float32), rows[:, 5].astype(np.int64))


def photo(height=60, width=80):
    return np.zeros((height, width, 3), np.uint8)


def test_iou_by_hand():
    iou = box_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6], [1, 1, 1, 1]]))
    assert iou.tolist() == [[pytest.approx(1 / 3), 0.0, 0.0]]


def test_boxes_are_matched_once_by_best_overlap_within_a_class():
    left = found([0, 0, 10, 10, 0.9, 0], [0, 0, 10, 8, 0.8, 0], [50, 50, 60, 60, 0.7, 1])
    right = found([0, 0, 10, 10, 0.9, 0], [50, 50, 60, 60, 0.7, 0])
    assert matched(left, right) == {0: 0}


@given(arrays(np.int64, (5, 4), elements=st.integers(1, 30)))
def test_a_network_matches_itself_completely(sides):
    boxes = np.hstack([sides[:, :2], sides[:, :2] + sides[:, 2:]]).astype(np.float32)
    same = Detections(boxes, np.ones(5, np.float32), np.zeros(5, np.int64))
    pairs = matched(same, same)
    assert sorted(pairs) == sorted(pairs.values()) == list(range(5))


def test_lost_and_new_boxes_are_marked_and_weak_ones_left_out():
    left = found([0, 0, 10, 10, 0.9, 0], [30, 30, 50, 50, 0.5, 1], [1, 1, 5, 5, 0.1, 0])
    right = found([0, 0, 10, 11, 0.8, 0], [60, 30, 70, 50, 0.5, 1])
    picture = picture_boxes(Sample("a.jpg", photo()), left, right, CLASSES, "openvino")
    float_panel, engine_panel = picture.panels
    assert [(mark.label, mark.changed) for mark in float_panel.marks] == [("car", False), ("person", True)]
    assert [(mark.label, mark.changed) for mark in engine_panel.marks] == [("car", False), ("person", True)]
    assert picture.caption == "1 kept, 1 lost, 1 new"
    assert engine_panel.title == "openvino"


def test_nothing_found_is_a_picture_too():
    picture = picture_boxes(Sample("a.jpg", photo()), found(), found(), CLASSES, "ort")
    assert picture.caption == "0 kept, 0 lost, 0 new"


def test_a_large_photo_is_made_smaller_and_its_boxes_with_it():
    one = found([100, 200, 640, 480, 0.9, 0])
    picture = picture_boxes(Sample("a.jpg", photo(960, 1280)), one, one, CLASSES, "ort")
    assert (picture.width, picture.height) == (LONG_SIDE, LONG_SIDE * 3 // 4)
    assert picture.panels[0].marks[0].xyxy == (50.0, 100.0, 320.0, 240.0)
    assert Image.open(io.BytesIO(picture.jpeg)).size == (640, 480)


def test_changed_pixels_are_counted_where_they_are_labelled():
    label = np.array([[0, 0, VOID, 1]], np.uint8)
    reference, compressed = np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    sample = Sample("a.png", photo(1, 4), mask=label)
    picture = picture_masks(sample, reference, compressed, CLASSES, "ort")
    assert picture.caption == "33.33% of the labelled pixels changed class"
    assert [panel.title for panel in picture.panels] == ["float", "ort", "changed"]
    assert [name for name, _ in picture.legend] == ["car", "person"]
    overlay = Image.open(io.BytesIO(picture.panels[2].overlay_png)).convert("RGBA")
    assert [overlay.getpixel((80 + 160 * x, 0))[3] for x in range(4)] == [0, 255, 0, 0]
    unlabelled = picture_masks(Sample("a.png", photo(1, 4)), reference, compressed, CLASSES, "ort")
    assert unlabelled.caption == "50.00% of the pixels changed class"


def test_the_overlay_has_the_colours_of_the_legend():
    mask = np.array([[0, 1]], np.uint8)
    picture = picture_masks(Sample("a.png", photo(1, 2)), mask, mask, CLASSES, "ort")
    overlay = Image.open(io.BytesIO(picture.panels[0].overlay_png)).convert("RGB")
    colours = ["#{:02x}{:02x}{:02x}".format(*overlay.getpixel((160 + 320 * x, 0))) for x in range(2)]
    assert colours == [colour for _, colour in picture.legend]
