from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avcompress.recipe import KittiSource
from avcompress.spec import DataError
from calibration.source import Source, open_source

CAR = "Car 0.00 0 -0.20 10.0 20.5 30.0 40.5 1.89 0.48 1.20 1.84 1.47 8.41 0.01"
DONT_CARE = "DontCare -1 -1 -10 0 0 5 5 -1 -1 -1 -1000 -1000 -1000 -10"


def write(root: Path, *lines: str) -> Path:
    for folder in ("image_2", "label_2"):
        (root / folder).mkdir(exist_ok=True)
    Image.new("RGB", (100, 50)).save(root / "image_2" / "000000.png")
    (root / "label_2" / "000000.txt").write_text("\n".join(lines))
    return root


def open_kitti(root: Path, classes: tuple[str, ...] | None = None, **settings: Any) -> Source:
    return open_source(KittiSource(format="kitti", images="image_2", labels="label_2", **settings), root, classes)


def test_objects_come_as_written_and_dont_care_is_ignored(tmp_path: Path) -> None:
    source = open_kitti(write(tmp_path, CAR, "", DONT_CARE, CAR.replace("Car", "Cyclist") + " 0.93"))

    boxes = source[0].boxes

    assert source.classes == ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
    assert boxes.xyxy.tolist() == [[10, 20.5, 30, 40.5], [0, 0, 5, 5], [10, 20.5, 30, 40.5]]
    assert boxes.labels.tolist() == [0, -1, 5]
    assert boxes.ignore.tolist() == [False, True, False]
    assert boxes.area.tolist() == [400, 25, 400]


def described(truncated: str, occluded: str, location: str) -> str:
    return f"Car {truncated} {occluded} -0.20 10.0 20.5 30.0 40.5 1.89 0.48 1.20 {location} 0.01"


def test_attributes_come_as_written_and_as_words(tmp_path: Path) -> None:
    near, far = described("0.00", "0", "1.84 1.47 8.41"), described("0.31", "2", "-3.0 1.5 41.5")

    attributes = open_kitti(write(tmp_path, near, DONT_CARE, far))[0].boxes.attributes

    nan = float("nan")
    assert {name: values.tolist() for name, values in attributes.items() if values.dtype.kind == "U"} == {
        "type": ["Car", "DontCare", "Car"],
        "occlusion": ["none", "", "largely"],
        "truncation": ["none", "", "largely"],
    }
    np.testing.assert_array_equal(attributes["occlusion_level"], [0, nan, 2])
    np.testing.assert_array_equal(attributes["truncated"], [0, nan, 0.31])
    np.testing.assert_array_equal(attributes["distance_m"], [8.41, nan, 41.5])
    assert {values.dtype.kind for values in attributes.values()} == {"U", "f"}


@pytest.mark.parametrize(
    ("truncated", "word"),
    [("0.15", "none"), ("0.16", "partly"), ("0.30", "partly"), ("0.5", "largely"), ("1", "mostly")],
)
def test_truncation_has_the_kits_own_limits(tmp_path: Path, truncated: str, word: str) -> None:
    boxes = open_kitti(write(tmp_path, described(truncated, "3", "1 1 9")))[0].boxes

    assert boxes.attributes["truncation"].tolist() == [word]
    assert boxes.attributes["occlusion"].tolist() == ["unknown"]


@pytest.mark.parametrize(
    ("truncated", "occluded", "location"),
    [("-1", "-1", "-1000 -1000 -1000"), ("2", "4", "0 0 0"), ("nan", "0.5", "nan nan nan"), ("inf", "nan", "1 1 inf")],
)
def test_placeholders_are_unknown(tmp_path: Path, truncated: str, occluded: str, location: str) -> None:
    attributes = open_kitti(write(tmp_path, described(truncated, occluded, location)))[0].boxes.attributes

    assert np.isnan([attributes[name][0] for name in ("truncated", "occlusion_level", "distance_m")]).all()
    assert attributes["truncation"].tolist() == attributes["occlusion"].tolist() == [""]


def test_an_image_without_objects_has_the_same_columns(tmp_path: Path) -> None:
    empty = open_kitti(write(tmp_path))[0].boxes.attributes

    assert {name: values.dtype.kind for name, values in empty.items()} == {
        "type": "U",
        "occlusion_level": "f",
        "truncated": "f",
        "occlusion": "U",
        "truncation": "U",
        "distance_m": "f",
    }


def test_the_fingerprint_follows_attributes(tmp_path: Path) -> None:
    before = open_kitti(write(tmp_path, described("0", "0", "1 1 9"))).fingerprint

    assert open_kitti(write(tmp_path, described("0", "1", "1 1 9"))).fingerprint != before
    assert open_kitti(write(tmp_path, described("0", "0", "1 1 9.5"))).fingerprint != before
    assert open_kitti(write(tmp_path, described("0", "0", "1 1 9"))).fingerprint == before


def test_boxes_are_clipped_to_the_image_and_dropped_outside_it(tmp_path: Path) -> None:
    partly = CAR.replace("30.0 40.5", "140.0 60.0")
    outside = CAR.replace("10.0 20.5 30.0 40.5", "101 0 120 50")

    boxes = open_kitti(write(tmp_path, partly, outside))[0].boxes

    assert boxes.xyxy.tolist() == [[10, 20.5, 100, 50]]
    assert boxes.area.tolist() == [90 * 29.5]


def test_aliases_join_classes_and_dont_care_stays_ignored(tmp_path: Path) -> None:
    root = write(tmp_path, CAR, CAR.replace("Car", "Van"), CAR.replace("Car", "Misc"), DONT_CARE)

    source = open_kitti(root, ("person", "car"), aliases={"Car": "car", "Van": "car", "Misc": None})

    assert source[0].boxes.labels.tolist() == [1, 1, -1, -1]
    assert source[0].boxes.ignore.tolist() == [False, False, True, True]


def test_an_empty_label_file_is_an_image_without_objects(tmp_path: Path) -> None:
    assert open_kitti(write(tmp_path))[0].boxes.xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Car 0 0", "expected 15 fields, or 16 with a score, got 3"),
        (CAR + " 1 2", "got 17"),
        (CAR.replace("20.5", "high"), "expected numbers after the type, got .*'high'"),
        (CAR.replace("20.5", "nan"), "expected pixels"),
        (CAR.replace("40.5", "inf"), "expected pixels"),
        (CAR.replace("30.0", "9.0"), r"left <= right, top <= bottom, got \(10.0"),
        (CAR.replace("Car", "Cars"), "got label 'Cars'; the nearest class is 'Car'"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    root = write(tmp_path, CAR, line)

    with pytest.raises(DataError, match=r"label_2/000000\.txt:2: .*" + message):
        open_kitti(root)


def test_label_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "label_2" / "000000.txt").write_bytes(b"\xff\xfe\x00C")

    with pytest.raises(DataError, match=r"000000\.txt: expected KITTI text"):
        open_kitti(root)


def test_an_image_needs_its_label_file(tmp_path: Path) -> None:
    root = write(tmp_path)
    Image.new("RGB", (100, 50)).save(root / "image_2" / "000001.png")

    with pytest.raises(DataError, match=r"000001\.txt: expected the KITTI label of an image, 1 of 2 are missing"):
        open_kitti(root)
    assert len(open_kitti(root, limit=1)) == 1


def test_kitti_mini_has_its_official_object_counts_inside_the_frames(data_root: Path) -> None:
    settings = KittiSource(format="kitti", images="kitti_mini/training/image_2", labels="kitti_mini/training/label_2")

    source = open_source(settings, data_root)

    assert len(source) == 31
    counts = np.zeros(len(source.classes), int)
    ignored = 0
    for sample in source:
        height, width = sample.image.shape[:2]
        xyxy = sample.boxes.xyxy
        assert (xyxy >= 0).all()
        assert (xyxy <= [width, height, width, height]).all()
        counts += np.bincount(sample.boxes.labels[~sample.boxes.ignore], minlength=len(counts))
        ignored += int(sample.boxes.ignore.sum())
    assert dict(zip(source.classes, counts.tolist(), strict=True)) == {
        "Car": 65,
        "Van": 5,
        "Truck": 5,
        "Pedestrian": 12,
        "Person_sitting": 0,
        "Cyclist": 5,
        "Tram": 2,
        "Misc": 2,
    }
    assert ignored == 96
