import math

import numpy as np
import pytest

from calibration.sample import ALIASED_AWAY, VOID
from validation.changes import find_changes
from validation.mask_png import encode_mask
from validation.predictions import BoxPredictions, MaskPredictions
from validation.truth import Objects, Truth

CLASSES = ("car", "person")
CAR, PERSON = 0, 1
NAMES = ("a", "b", "c")


def at(x, width=10):
    return (x, 0, x + width, 10)


def truth(*objects):
    """Objects are (image, label, box, ignore)."""
    return Truth(
        NAMES,
        CLASSES,
        "0" * 64,
        np.full((3, 2), 200, np.int32),
        np.zeros(3, np.float32),
        {},
        Objects(
            np.array([each[0] for each in objects], np.int64),
            np.array([each[2] for each in objects], np.float32).reshape(-1, 4),
            np.array([each[1] for each in objects], np.int64),
            np.array([each[3] for each in objects], bool),
            np.full(len(objects), 100.0),
            {},
        ),
    )


def found(*detections):
    """Detections are (image, label, box, score)."""
    return BoxPredictions(
        NAMES,
        np.array([each[0] for each in detections], np.int64),
        np.array([each[2] for each in detections], np.float32).reshape(-1, 4),
        np.array([each[3] for each in detections], np.float32),
        np.array([each[1] for each in detections], np.int64),
    )


def test_what_is_beyond_the_best_hundred_of_a_class_in_an_image_is_no_false_alarm():
    many = found(*((1, CAR, at(20), 0.9 - index / 1000) for index in range(103)))
    assert len(find_changes(LABELS, found(), many, 0.5).new_alarms) == 100


LABELS = truth(
    (0, CAR, at(0), False),
    (0, CAR, at(50), False),
    (1, PERSON, at(0), False),
    (2, PERSON, at(0), False),
    (2, ALIASED_AWAY, (100, 0, 150, 50), True),
)


def test_lost_gained_and_moved_objects_by_hand():
    changes = find_changes(
        LABELS,
        found((0, CAR, at(0), 0.9), (0, CAR, at(50), 0.75), (1, PERSON, at(1), 0.8)),
        found((0, CAR, at(1), 0.7), (0, CAR, at(50), 0.25), (2, PERSON, at(0), 0.6), (1, CAR, at(0), 0.9)),
        0.5,
    )
    car, person = changes.lost
    assert (car.image, car.label, car.xyxy) == (0, CAR, at(50))
    assert (car.reference_score, car.network_score, car.move) == (0.75, 0.25, -0.5)
    assert (person.image, person.label, math.isnan(person.network_score)) == (1, PERSON, True)
    assert [each.image for each in changes.gained] == [2]
    assert [each.move for each in changes.moved] == pytest.approx([-0.2, -0.5], abs=1e-6)
    assert math.isnan(changes.gained[0].reference_score)
    # Of another class than the object: a false alarm.
    assert [(each.image, each.label) for each in changes.new_alarms] == [(1, CAR)]
    assert changes.vanished_alarms == ()
    cars, people = changes.classes
    assert (cars.name, cars.objects, cars.lost, cars.lost_below_threshold, cars.gained) == ("car", 2, 1, 1, 0)
    assert cars.mean_move == pytest.approx((-0.5 - 0.2) / 2, abs=1e-6)
    assert cars.worst_move == car
    assert (people.lost, people.lost_below_threshold, people.gained) == (1, 0, 1)
    assert math.isnan(people.mean_move)
    assert people.worst_move is None
    # One object lost in both; image b has a new false alarm, too.
    assert [(each.name, each.lost, each.new_alarms) for each in changes.worst] == [("b", 1, 1), ("a", 1, 0)]
    assert changes.worst[1].fall == pytest.approx(0.7, abs=1e-6)


def test_a_false_alarm_is_new_only_where_the_other_network_raises_none():
    wrong = (100, 100, 120, 120)
    near = (102, 100, 122, 120)
    changes = find_changes(
        LABELS,
        found((0, CAR, wrong, 0.6), (1, CAR, wrong, 0.75)),
        found((0, CAR, near, 0.9), (0, PERSON, near, 0.9), (1, CAR, near, 0.25), (2, CAR, (110, 10, 130, 30), 0.9)),
        0.5,
    )
    # Image a: the same car alarm, and a person that the reference does not see. Image c: inside an ignored region.
    assert [(each.image, each.label, math.isnan(each.other_score)) for each in changes.new_alarms] == [
        (0, PERSON, True)
    ]
    assert [(each.image, each.score, each.other_score) for each in changes.vanished_alarms] == [(1, 0.75, 0.25)]
    assert changes.lost == changes.gained == ()
    assert [each.name for each in changes.worst] == ["a"]


def test_equal_networks_change_nothing():
    one = found((0, CAR, at(0), 0.9), (1, CAR, at(80), 0.9))
    changes = find_changes(LABELS, one, one, 0.5)
    assert changes.lost == changes.gained == changes.new_alarms == changes.vanished_alarms == changes.worst == ()
    assert changes.classes[0].mean_move == 0


def test_pixels_for_the_worse_and_the_better_by_hand():
    def masks(*rows):
        return tuple(encode_mask(np.array([row], np.uint8)) for row in rows)

    labels = Truth(
        NAMES,
        CLASSES,
        "0" * 64,
        np.ones((3, 2), np.int32),
        np.zeros(3, np.float32),
        {},
        masks=masks([0, 0, 1, VOID], [1, 1, 1, 1], [0, 0, 0, 0]),
    )
    before = MaskPredictions(NAMES, masks([0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1]))
    after = MaskPredictions(NAMES, masks([1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0]))
    changes = find_changes(labels, before, after)
    assert [(each.name, each.labelled, each.worse, each.better) for each in changes.classes] == [
        ("car", 6, 2, 3),
        ("person", 5, 2, 1),
    ]
    assert [(each.name, each.index, each.worse, each.better) for each in changes.worst] == [
        ("b", 1, 2, 0),
        ("a", 0, 1, 1),
        ("c", 2, 1, 3),
    ]


def test_networks_of_two_tasks_are_not_compared():
    with pytest.raises(ValueError, match="expected two networks of one task, and a score threshold"):
        find_changes(LABELS, found(), MaskPredictions(NAMES, (b"",) * 3), 0.5)
    with pytest.raises(ValueError, match="a score threshold where they detect"):
        find_changes(LABELS, found(), found())
