import io

import numpy as np
import pytest
from PIL import Image

from calibration.sample import VOID, Sample
from engines.postprocess import Detections
from validation.changes import FalseAlarm, ObjectChange, find_changes
from validation.mask_png import encode_mask
from validation.pictures import GAINED, LONG_SIDE, LOST, NEW, Names, Seen, Story, picture_boxes, picture_masks
from validation.predictions import BoxPredictions, MaskPredictions
from validation.truth import Objects, Truth
from validation.worst import Compared, worst_pictures

CLASSES = ("car", "person")
NAMES = Names("float", "ort", CLASSES)
NAN = float("nan")


def found(*rows):
    rows = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(rows[:, :4].astype(np.float32), rows[:, 4].astype(np.float32), rows[:, 5].astype(np.int64))


def boxes(sample, before, after, story):
    return picture_boxes(sample, Seen("float", before), Seen("openvino", after), story, CLASSES)


def photo(height=60, width=80):
    return np.zeros((height, width, 3), np.uint8)


def test_what_was_lost_gained_and_falsely_raised_is_marked_in_its_own_colour_and_told():
    before = found([0, 0, 10, 10, 0.9, 0], [30, 30, 50, 50, 0.5, 1])
    after = found([0, 0, 10, 11, 0.8, 0], [60, 30, 70, 50, 0.5, 1])
    story = Story(
        lost=(ObjectChange(0, 1, (30, 30, 50, 50), 0.5, 0.2), ObjectChange(0, 0, (1, 1, 9, 9), 0.4, NAN)),
        gained=(ObjectChange(0, 0, (5, 5, 9, 9), 0.1, 0.7),),
        new=(FalseAlarm(0, 1, (60, 30, 70, 50), 0.5, NAN),),
    )
    picture = boxes(Sample("a.jpg", photo()), before, after, story)
    left, right = picture.panels
    assert [(mark.text, mark.colour, mark.missing) for mark in left.marks if mark.text] == [
        ("person 0.50", LOST, False),
        ("car 0.40", LOST, False),
        ("car 0.10", GAINED, True),
    ]
    assert [(mark.text, mark.colour, mark.missing) for mark in right.marks if mark.text] == [
        ("person 0.20", LOST, True),
        ("car unseen", LOST, True),
        ("car 0.70", GAINED, False),
        ("person 0.50", NEW, False),
    ]
    assert [mark.kind for mark in left.marks].count("same") == 2
    assert [mark.kind for mark in right.marks].count("same") == 1  # the false alarm is drawn once
    assert picture.caption == "2 lost (person, car); 1 gained (car); 1 new false alarms (person)"
    assert right.title == "openvino"


def test_nothing_found_is_a_picture_too():
    assert boxes(Sample("a.jpg", photo()), found(), found(), Story()).caption == "nothing lost or gained"


def test_a_large_photo_is_made_smaller_and_its_boxes_with_it():
    one = found([100, 200, 640, 480, 0.9, 0])
    picture = boxes(Sample("a.jpg", photo(960, 1280)), one, one, Story())
    assert (picture.width, picture.height) == (LONG_SIDE, LONG_SIDE * 3 // 4)
    assert picture.panels[0].marks[0].xyxy == (50.0, 100.0, 320.0, 240.0)
    assert Image.open(io.BytesIO(picture.jpeg)).size == (640, 480)


def test_pixels_that_got_worse_and_better_are_told_apart_where_they_are_labelled():
    label = np.array([[0, 0, VOID, 1, 1]], np.uint8)
    before, after = np.array([[0, 0, 0, 1, 0]], np.uint8), np.array([[0, 1, 1, 1, 1]], np.uint8)
    picture = picture_masks(Sample("a.png", photo(1, 5), mask=label), before, after, NAMES)
    assert picture.caption == "25.00% of the labelled pixels got worse, 25.00% better"
    assert [panel.title for panel in picture.panels] == ["float", "ort", "what changed"]
    assert [name for name, _ in picture.legend] == ["car", "person", "got worse", "got better"]
    overlay = Image.open(io.BytesIO(picture.panels[2].overlay_png)).convert("RGBA")
    seen = [overlay.getpixel((64 + 128 * x, 0)) for x in range(5)]
    assert [pixel[3] for pixel in seen] == [0, 255, 0, 0, 255]
    assert ["#{:02x}{:02x}{:02x}".format(*seen[x][:3]) for x in (1, 4)] == [LOST, GAINED]
    unlabelled = picture_masks(Sample("a.png", photo(1, 5)), before, after, NAMES)
    assert unlabelled.caption == "60.00% of the pixels changed class"


def test_the_overlay_has_the_colours_of_the_legend():
    mask = np.array([[0, 1]], np.uint8)
    picture = picture_masks(Sample("a.png", photo(1, 2)), mask, mask, NAMES)
    overlay = Image.open(io.BytesIO(picture.panels[0].overlay_png)).convert("RGB")
    colours = ["#{:02x}{:02x}{:02x}".format(*overlay.getpixel((160 + 320 * x, 0))) for x in range(2)]
    assert colours == [colour for _, colour in picture.legend][:2]


class Images:
    """A source of three images that is asked for by index; the first cannot be read, and has no predictions."""

    classes = CLASSES
    names = ("broken.jpg", "a.jpg", "b.jpg")
    asked: list[str]

    def __init__(self, mask=None):
        self.asked = []
        self.mask = mask

    def __getitem__(self, index):
        self.asked.append(self.names[index])
        return Sample(self.names[index], photo(), mask=self.mask)


def truth(**more):
    return Truth(
        names=("a.jpg", "b.jpg"), classes=CLASSES, fingerprint="0" * 64, sizes=np.full((2, 2), 60, np.int32),
        brightness=np.zeros(2, np.float32), tags={}, **more,
    )  # fmt: skip


def test_the_image_that_lost_most_is_pictured_first_and_only_those_that_got_worse():
    xyxy = np.array([[0, 0, 20, 20], [30, 30, 50, 50]], np.float32)
    objects = Objects(
        image=np.array([0, 1]), xyxy=xyxy, labels=np.array([0, 1]), ignore=np.zeros(2, np.bool_),
        area=np.full(2, 400.0), attributes={},
    )  # fmt: skip
    every = BoxPredictions(
        ("a.jpg", "b.jpg"), np.array([0, 1]), xyxy, np.array([0.9, 0.8], np.float32), np.array([0, 1])
    )
    part = every.keep(np.array([True, False]))
    labels, source = truth(objects=objects), Images()

    changes = find_changes(labels, every, part, 0.3)
    pictures = worst_pictures(source, Compared(every, part, changes), ("reference", "ort"))

    assert [picture.name for picture in pictures] == source.asked == ["b.jpg"]
    assert pictures[0].caption == "1 lost (person)"
    assert [panel.title for panel in pictures[0].panels] == ["reference", "ort"]
    assert (
        worst_pictures(source, Compared(every, every, find_changes(labels, every, every, 0.3)), ("float", "ort")) == ()
    )
    with pytest.raises(TypeError, match="detections of both"):
        worst_pictures(source, Compared(MaskPredictions((), ()), part, changes), ("float", "ort"))


def test_the_mask_that_got_worse_is_pictured():
    label, wrong = np.zeros((60, 80), np.uint8), np.ones((60, 80), np.uint8)
    right, worse = encode_mask(label), encode_mask(wrong)
    labels, source = truth(masks=(right, right)), Images(label)
    before, after = (MaskPredictions(("a.jpg", "b.jpg"), pngs) for pngs in ((right, right), (right, worse)))

    pictures = worst_pictures(source, Compared(before, after, find_changes(labels, before, after)), ("float", "ort"))

    assert [picture.name for picture in pictures] == ["b.jpg"]
    assert pictures[0].caption == "100.00% of the labelled pixels got worse, 0.00% better"
