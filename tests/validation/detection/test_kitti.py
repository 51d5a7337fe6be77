import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from validation.detection import Within, box_metric_names, kitti_curves, tally_boxes
from validation.detection.tally import BoxTally
from validation.predictions import BoxPredictions
from validation.truth import Objects, Truth

CLASSES = ("Car", "Pedestrian", "Cyclist", "Van")


class Label(NamedTuple):
    type: str
    truncated: float
    occluded: float
    xyxy: tuple[float, ...]


class Found(NamedTuple):
    type: str
    xyxy: tuple[float, ...]
    score: float


Image = tuple[list[Label], list[Found]]


def tally(images: list[Image], within: Within | None = None) -> BoxTally:
    names = tuple(f"{index:06}.png" for index in range(len(images)))
    labels = [label for each, _ in images for label in each]
    found = [item for _, each in images for item in each]
    objects = Objects(
        np.repeat(np.arange(len(images)), [len(each) for each, _ in images]),
        np.array([label.xyxy for label in labels], np.float32).reshape(-1, 4),
        np.array([CLASSES.index(label.type) if label.type in CLASSES else -1 for label in labels], np.int64),
        np.array([label.type not in CLASSES for label in labels], np.bool_),
        np.ones(len(labels)),
        {
            "type": np.array([label.type for label in labels], np.str_),
            "truncated": np.array([label.truncated for label in labels], np.float64),
            "occlusion_level": np.array([label.occluded for label in labels], np.float64),
        },
    )
    sizes, brightness = np.zeros((len(images), 2), np.int32), np.zeros(len(images), np.float32)
    predictions = BoxPredictions(
        names,
        np.repeat(np.arange(len(images)), [len(each) for _, each in images]),
        np.array([item.xyxy for item in found], np.float32).reshape(-1, 4),
        np.array([item.score for item in found], np.float32),
        np.array([CLASSES.index(item.type) for item in found], np.int64),
    )
    truth = Truth(names, CLASSES, "", sizes, brightness, {}, objects)
    return tally_boxes(truth, predictions, 0.5, within)


def figures(images: list[Image], weights: list[int] | None = None, within: Within | None = None) -> dict[str, float]:
    column = np.array(weights or [1] * len(images), np.float64)[:, None]
    return {name: float(values[0]) for name, values in tally(images, within).figures(column).items()}


def read_labels(path: Path) -> list[Label]:
    lines = [line.split() for line in path.read_text().splitlines()]
    return [Label(one[0], float(one[1]), float(one[2]), tuple(float(edge) for edge in one[4:8])) for one in lines]


def shaken(labels: list[Label], rng: random.Random) -> list[Found]:
    """Detections on and beside the objects, some of another class, some small; scores in eighths tie."""
    found = []
    for label in labels:
        left, top, right, bottom = label.xyxy
        for _ in range(1 + int(rng.random() * 3)):
            spread = 0.01 + 0.06 * rng.random()
            edges = [edge + (2 * rng.random() - 1) * spread * side
                     for edge, side in zip(label.xyxy, (right - left, bottom - top) * 2, strict=True)]  # fmt: skip
            name = label.type if label.type in CLASSES and rng.random() < 0.9 else CLASSES[int(rng.random() * 4)]
            box = tuple(float(np.float32(edge)) for edge in edges)
            found.append(Found(name, box, int(rng.random() * 64) / 64 if rng.random() < 0.5 else rng.random()))
    for _ in range(int(rng.random() * 4)):
        left, top, height = 1100 * rng.random(), 250 * rng.random(), 15 + 60 * rng.random()
        found.append(Found(CLASSES[int(rng.random() * 4)], (left, top, left + height, top + height), rng.random() / 2))
    # Scores as a text file of six digits holds them, and float32 too.
    return [item._replace(score=float(np.float32(round(item.score, 6)))) for item in found]


def kitti_mini(data_root: Path, seed: int) -> list[Image]:
    rng = random.Random(seed)  # noqa: S311
    folder = data_root / "kitti_mini" / "training" / "label_2"
    labelled = [read_labels(path) for path in sorted(folder.iterdir())]
    return [(labels, shaken(labels, rng)) for labels in labelled]


def crowded(seed: int) -> list[Image]:
    """Rendered from numbers alone: boxes that overlap, of every type and difficulty."""
    rng = random.Random(seed)  # noqa: S311
    types = ("Car", "Car", "Pedestrian", "Cyclist", "Van", "Person_sitting", "DontCare", "Truck")
    images = []
    for _ in range(80):
        labels = []
        for _ in range(int(rng.random() * 8)):
            x, y, w, h = 500 * rng.random(), 200 * rng.random(), 20 + 60 * rng.random(), 15 + 50 * rng.random()
            truncated, occluded = (0.0, 0.1, 0.2, 0.4)[int(rng.random() * 4)], int(rng.random() * 3.2)
            labels.append(Label(types[int(rng.random() * 8)], truncated, occluded, (x, y, x + w, y + h)))
        images.append((labels, shaken(labels, rng)))
    return images


LEVELS, JUDGED = ("easy", "moderate", "hard"), ("Car", "Pedestrian", "Cyclist")
NAN = float("nan")


def table(found: dict[str, float]) -> list[list[float]]:
    return [[found[f"AP40_{level}/{name}"] for level in LEVELS] for name in JUDGED]


# The figures of the two tests below are those of traveller59/kitti-object-eval-python at 9f385f8, `eval_class` with the
# overlaps .7, .5, .5, on the same labels and detections: the mean of the last 40 of its 41 precisions. Those of
# prclibo/kitti_eval, the official C++, are the same to its six digits, once its `height<MIN_HEIGHT` is the official
# development kit's `height<=MIN_HEIGHT`. Where it has no object to find it says 0, and we NaN.


def test_it_equals_a_published_evaluation_on_kitti(data_root):
    images = kitti_mini(data_root, 5)
    assert np.array(table(figures(images))) == pytest.approx(
        np.array([
            [0.2332214027, 0.6186162339, 0.7025884062],
            [0.1218750000, 0.2010101010, 0.2460416667],
            [NAN, 0.0, 0.0],
        ]),
        abs=1e-9,
        nan_ok=True,
    )  # fmt: skip
    # Images drawn 0, 1 or 2 times: the published evaluation on the images repeated.
    weights = [index * 7 % 3 for index in range(len(images))]
    assert np.array(table(figures(images, weights))) == pytest.approx(
        np.array([
            [0.2061638117, 0.6088515782, 0.6693230776],
            [0.0613636364, 0.1645161290, 0.2204248366],
            [NAN, 0.0, 0.0],
        ]),
        abs=1e-9,
        nan_ok=True,
    )  # fmt: skip


def test_it_equals_a_published_evaluation_on_a_crowd():
    found = figures(crowded(1))
    assert np.array(table(found)) == pytest.approx(
        np.array([
            [0.0011904762, 0.1422173825, 0.4633392916],
            [0.0000000000, 0.0860076578, 0.2709718412],
            [0.0291666667, 0.0856616800, 0.2377733574],
        ]),
        abs=1e-9,
    )  # fmt: skip
    assert found["AP40_hard"] == pytest.approx((0.4633392916 + 0.2709718412 + 0.2377733574) / 3, abs=1e-9)
    assert np.isnan(found["AP40_hard/Van"])
    assert tuple(found) == box_metric_names(CLASSES, kitti=True)


CAR, NEXT = (100.0, 100.0, 200.0, 150.0), (400.0, 100.0, 500.0, 150.0)


def cars(count: int) -> list[Image]:
    return [([Label("Car", 0.0, 0.0, CAR)], [Found("Car", CAR, 1 - index / 100)]) for index in range(count)]


def test_a_false_alarm_above_all_hits_costs_the_same_at_every_recall():
    images = cars(40)
    assert figures(images)["AP40_easy/Car"] == pytest.approx(39 / 40)  # 40 thresholds, of 41 that there could be
    images[0][1].append(Found("Car", NEXT, 2.0))
    # 40 hits of 41 detections at the last threshold, which the envelope gives to all others.
    assert figures(images)["AP40_easy/Car"] == pytest.approx(39 / 40 * 40 / 41)


@pytest.mark.parametrize(
    "beside",
    [
        Label("DontCare", -1.0, -1.0, (390.0, 90.0, 510.0, 160.0)),
        Label("Van", 0.0, 0.0, NEXT),
        Label("Car", 0.0, 3.0, NEXT),
        Label("Car", 0.6, 0.0, NEXT),
    ],
)
def test_a_detection_on_what_is_not_asked_for_costs_nothing(beside):
    images = cars(40)
    images[0][0].append(beside)
    images[0][1].append(Found("Car", NEXT, 2.0))
    assert figures(images)["AP40_hard/Car"] == pytest.approx(39 / 40)


def test_small_detections_cost_nothing_where_the_level_asks_for_greater_ones():
    images = cars(40)
    images[0][1].append(Found("Car", (400.0, 100.0, 500.0, 130.0), 2.0))
    found = figures(images)
    assert found["AP40_easy/Car"] == pytest.approx(39 / 40)
    assert found["AP40_moderate/Car"] == pytest.approx(39 / 40 * 40 / 41)


def test_what_lies_outside_the_slice_is_neither_missed_nor_a_false_alarm():
    images = cars(40)
    images[0][0].append(Label("Car", 0.0, 0.0, NEXT))
    images[1][1].append(Found("Car", NEXT, 2.0))
    objects, detections = np.ones(41, np.bool_), np.ones(41, np.bool_)
    objects[1] = detections[2] = False
    assert figures(images, within=Within(objects, detections))["AP40_easy/Car"] == pytest.approx(39 / 40)
    assert figures(images, within=Within(objects))["AP40_easy/Car"] == pytest.approx(39 / 40 * 40 / 41)


def test_a_class_without_objects_has_no_figure_and_takes_no_matching(monkeypatch):
    images = cars(40)
    images[0][1].append(Found("Pedestrian", NEXT, 0.9))
    drawn = []
    monkeypatch.setattr(
        kitti_curves, "_curve", lambda *given, real=kitti_curves._curve: drawn.append(1) or real(*given)
    )
    found = figures(images)

    assert np.isnan(found["AP40_easy/Pedestrian"])
    assert len(drawn) == len(kitti_curves.LEVELS)  # of cars


def test_weights_that_are_not_whole_are_refused():
    with pytest.raises(ValueError, match="expected whole weights"):
        tally(cars(2)).figures(np.array([[0.5], [1.0]]))
