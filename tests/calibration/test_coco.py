import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avcompress.recipe import CocoSource
from avcompress.spec import DataError
from calibration.source import Source, open_source

LABELS: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "late.png", "width": 20, "height": 10},
        {"id": 2, "file_name": "early.png"},
        {"id": 5, "file_name": "middle.png", "width": 20, "height": 10},
    ],
    "categories": [{"id": 9, "name": "person"}, {"id": 3, "name": "car"}, {"id": 4, "name": "van"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 2, 3.5, 4], "area": 11.5, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0, 0, 2, 2], "area": 4.0, "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 4, "bbox": [5, 5, 2, 0]},
    ],
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Writes the images and the labels, changed by the given function."""

    def write_changed(change: Callable[[dict[str, Any]], object] = dict) -> Path:
        labels = copy.deepcopy(LABELS)
        change(labels)
        (tmp_path / "images").mkdir(exist_ok=True)
        for image in LABELS["images"]:
            Image.new("RGB", (20, 10)).save(tmp_path / "images" / image["file_name"])
        (tmp_path / "labels.json").write_text(json.dumps(labels))
        return tmp_path

    return write_changed


def open_coco(root: Path, classes: tuple[str, ...] | None = None, **settings: Any) -> Source:
    return open_source(CocoSource(format="coco", images="images", labels="labels.json", **settings), root, classes)


def test_images_come_by_id_with_their_boxes_in_xyxy(write) -> None:
    source = open_coco(write())

    early, middle, late = source

    assert source.classes == ("car", "van", "person")
    assert (early.name, middle.name, late.name) == source.names == ("early.png", "middle.png", "late.png")
    assert late.boxes.xyxy.tolist() == [[1, 2, 4.5, 6], [5, 5, 7, 5]]
    assert late.boxes.labels.tolist() == [2, 1]
    assert late.boxes.area.tolist() == [11.5, 0]
    assert early.boxes.ignore.tolist() == [True]
    assert early.boxes.labels.tolist() == [0]
    boxes = middle.boxes
    assert boxes.xyxy.shape == (0, 4)
    assert [a.dtype for a in (boxes.xyxy, boxes.labels, boxes.ignore, boxes.area)] == [
        np.float32,
        np.int64,
        np.bool_,
        np.float64,
    ]


def test_labels_are_mapped_by_name_onto_the_networks_classes(write) -> None:
    source = open_coco(write(), ("person", "bus", "car"), aliases={"van": "car"})

    assert source.classes == ("person", "bus", "car")
    assert source[2].boxes.labels.tolist() == [0, 2]


def test_a_null_alias_turns_objects_into_ignored_ones(write) -> None:
    boxes = open_coco(write(), ("person", "car"), aliases={"van": None})[2].boxes

    assert boxes.ignore.tolist() == [False, True]
    assert boxes.labels.tolist() == [0, -1]


def test_every_and_limit_follow_the_ids(write) -> None:
    assert open_coco(write(), every=2).names == ("early.png", "late.png")
    assert open_coco(write(), limit=1).names == ("early.png",)


def _annotation(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda labels: labels["annotations"][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels.pop("annotations"), r"annotations: expected COCO labels .* 'Field required'"),
        (lambda labels: labels.update(images={}), r"images: expected COCO labels .* valid array"),
        (lambda labels: labels["annotations"][1].pop("bbox"), r"annotations\.1\.bbox: .*Field required"),
        (_annotation(bbox=[1, 2, 3]), r"annotations\.0\.bbox"),
        (_annotation(bbox=[1, 2, "wide", 4]), r"annotations\.0\.bbox\.2"),
        (_annotation(bbox=[1, 2, float("nan"), 4]), "annotation 1: expected a box of size >= 0, got bbox .*nan"),
        (_annotation(bbox=[1, 2, float("inf"), 4]), "annotation 1: expected a box of size >= 0"),
        (_annotation(bbox=[1, 2, 1e300, 4]), "annotation 1: expected a box of size >= 0"),
        (_annotation(bbox=[1, 2, -3, 4]), "annotation 1: expected a box of size >= 0, got bbox .*-3"),
        (_annotation(area=float("nan")), "annotation 1: .* area nan"),
        (_annotation(area=-1), "annotation 1: .* area -1"),
        (_annotation(image_id=8), "annotation 1: expected a listed image, got image_id 8"),
        (_annotation(category_id=8), "annotation 1: expected a listed category, got category_id 8"),
        (lambda labels: labels["images"][0].update(id=5), "images: expected distinct ids, got 1 repeated"),
        (lambda labels: labels["categories"][0].update(id=3), "categories: expected distinct ids, got 1 repeated"),
        (lambda labels: labels.update(images=[], annotations=[]), "found none of 0 selected"),
        (lambda labels: labels.update(categories=[], annotations=[]), "classes: expected distinct names, got none"),
        (lambda labels: labels["images"][0].update(file_name="x" * 300), "expected an image, 1 of 3 are missing"),
        (lambda labels: labels["images"][0].update(file_name="a\0b"), "expected an image, 1 of 3 are missing"),
    ],
)
def test_broken_labels_are_named(write, change: Callable[[dict[str, Any]], object], message: str) -> None:
    root = write(change)

    with pytest.raises(DataError, match=message) as caught:
        open_coco(root)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"images: yaml", b"\xff\xfe\x00", b"[" * 10_000, b"[]", b"null"])
def test_what_is_not_coco_json_is_named(write, content: bytes) -> None:
    root = write()
    (root / "labels.json").write_bytes(content)

    with pytest.raises(DataError, match=r"labels\.json: expected COCO labels") as caught:
        open_coco(root)

    assert "\n" not in str(caught.value)


def test_a_missing_label_file_is_named(write) -> None:
    root = write()
    (root / "labels.json").unlink()

    with pytest.raises(DataError, match=r"labels\.json: expected a readable file, got No such file"):
        open_coco(root)


def test_an_unknown_label_names_file_annotation_label_and_the_nearest_class(write) -> None:
    root = write()

    with pytest.raises(DataError) as caught:
        open_coco(root, ("persons", "car", "van"))

    message = str(caught.value)
    assert all(part in message for part in ("labels.json", "annotation 1", "'person'", "'persons'", "aliases"))


def test_missing_images_are_counted_or_skipped(write) -> None:
    root = write()
    for name in ("early.png", "late.png"):
        (root / "images" / name).unlink()

    with pytest.raises(DataError, match=r"early\.png: expected an image, 2 of 3 are missing"):
        open_coco(root)

    source = open_coco(root, on_bad_image="skip")
    assert [sample.name for sample in source] == ["middle.png"]
    assert source.skipped == ("early.png", "late.png")

    (root / "images" / "middle.png").unlink()
    with pytest.raises(DataError, match="found none of 3 selected"):
        open_coco(root, on_bad_image="skip")


def test_images_that_are_not_chosen_may_be_missing(write) -> None:
    root = write()
    (root / "images" / "late.png").unlink()

    assert len(open_coco(root, limit=2)) == 2


def test_images_of_another_resolution_than_the_labels_are_refused(write) -> None:
    root = write()
    Image.new("RGB", (40, 20)).save(root / "images" / "late.png")

    with pytest.raises(DataError, match=r"late\.png: expected \(10, 20\) \(height, width\) as the labels say"):
        open_coco(root)[2]


def test_the_fingerprint_follows_the_labels_of_the_chosen_images(write) -> None:
    before, limited = open_coco(write()).fingerprint, open_coco(write(), limit=1).fingerprint

    root = write(_annotation(bbox=[1, 2, 3.5, 5]))

    assert open_coco(root).fingerprint != before
    assert open_coco(root, limit=1).fingerprint == limited
    assert open_coco(root, ("person", "car", "van")).fingerprint != open_coco(root).fingerprint


def test_val2017_loads_with_80_classes_in_id_order_and_every_official_box(data_root: Path) -> None:
    path = data_root / "coco_mini/annotations/instances_val2017.json"
    official = json.loads(path.read_text())
    settings = CocoSource(format="coco", images="coco_mini/val2017", labels=str(path.relative_to(data_root)))

    source = open_source(settings, data_root)

    assert len(source) == 158
    assert len(source.classes) == 80
    assert source.classes[:3] == ("person", "bicycle", "car")
    ids = {image["file_name"]: image["id"] for image in official["images"]}
    assert [ids[name] for name in source.names] == sorted(ids.values())
    names = {category["id"]: category["name"] for category in official["categories"]}
    for sample in source:
        expected = [a for a in official["annotations"] if a["image_id"] == ids[sample.name]]
        xywh = np.array([a["bbox"] for a in expected]).reshape(-1, 4)
        np.testing.assert_allclose(sample.boxes.xyxy[:, :2], xywh[:, :2], atol=1e-3)
        np.testing.assert_allclose(sample.boxes.xyxy[:, 2:] - sample.boxes.xyxy[:, :2], xywh[:, 2:], atol=1e-3)
        assert [source.classes[n] for n in sample.boxes.labels] == [names[a["category_id"]] for a in expected]
        assert sample.boxes.ignore.tolist() == [bool(a["iscrowd"]) for a in expected]
        assert sample.boxes.area.tolist() == [a["area"] for a in expected]


def in_words(labels: dict[str, Any]) -> None:
    for image in labels["images"]:
        image["id"] = f"cam-{image['id']}"
    for annotation in labels["annotations"]:
        annotation["image_id"] = f"cam-{annotation['image_id']}"


def quoted(labels: dict[str, Any]) -> None:
    for image in labels["images"]:
        image["id"] = f"{image['id']:06d}"


def sparse(labels: dict[str, Any]) -> None:
    for annotation in labels["annotations"]:
        del annotation["id"]
    labels["annotations"][0]["iscrowd"] = None


@pytest.mark.parametrize("change", [in_words, quoted, sparse])
def test_what_other_tools_write_is_read_alike(write, change: Callable[[dict[str, Any]], object]) -> None:
    plain, other = open_coco(write()), open_coco(write(change))

    assert other.names == plain.names
    for mine, theirs in zip(plain, other, strict=True):
        assert np.array_equal(mine.boxes.xyxy, theirs.boxes.xyxy)
        assert mine.boxes.labels.tolist() == theirs.boxes.labels.tolist()


def test_a_byte_order_mark_is_passed_over(write) -> None:
    root = write()
    (root / "labels.json").write_bytes(b"\xef\xbb\xbf" + (root / "labels.json").read_bytes())

    assert len(open_coco(root)) == 3


def test_attributes_become_columns_of_text_or_numbers_over_all_images(write) -> None:
    def describe(labels: dict[str, Any]) -> None:
        first, second, third = labels["annotations"]
        first.update(attributes={"occluded": False, "distance_m": 12, "colour": "red", "track": 7})
        second.update(occluded=1, attributes={"distance_m": 30.5, "track": "b", "parts": [1, 2], "note": None})
        third.update(truncated=0)

    early, middle, late = open_coco(write(describe))

    assert {name: values.tolist() for name, values in late.boxes.attributes.items() if name != "distance_m"} == {
        "colour": ["red", ""],
        "occluded": ["false", ""],
        "track": ["7", ""],
        "truncated": ["", "false"],
    }
    np.testing.assert_array_equal(late.boxes.attributes["distance_m"], [12, np.nan])
    assert early.boxes.attributes["occluded"].tolist() == ["true"]
    assert early.boxes.attributes["track"].tolist() == ["b"]
    kinds = [
        {name: values.dtype.kind for name, values in one.boxes.attributes.items()} for one in (early, middle, late)
    ]
    assert kinds[0] == kinds[1] == kinds[2]
    assert list(kinds[0]) == ["colour", "distance_m", "occluded", "track", "truncated"]


def test_a_truncation_of_other_numbers_than_0_and_1_is_a_number(write) -> None:
    source = open_coco(write(_annotation(truncated=0.25)))

    assert source[2].boxes.attributes["truncated"].tolist()[0] == 0.25


@pytest.mark.parametrize("value", [None, [], ["a"], "night", 3])
def test_attributes_that_are_no_mapping_are_left_out(write, value: Any) -> None:
    def describe(labels: dict[str, Any]) -> None:
        labels["annotations"][0].update(attributes=value)
        labels["images"][0].update(tags=value)

    sample = open_coco(write(describe))[2]

    assert dict(sample.boxes.attributes) == {}
    assert dict(sample.tags) == {}


def test_tags_come_from_image_attributes_image_tags_and_the_file_and_the_last_wins(write, tmp_path: Path) -> None:
    def describe(labels: dict[str, Any]) -> None:
        labels["images"][0].update(attributes={"weather": "rain", "light": "day", "wet": True}, tags={"light": "dusk"})

    root = write(describe)
    (root / "tags.json").write_text(json.dumps({"late.png": {"weather": "snow"}, "middle.png": {"lanes": 3}}))

    early, middle, late = open_coco(root, tags="tags.json")

    assert late.tags == {"weather": "snow", "light": "dusk", "wet": "true"}
    assert middle.tags == {"lanes": "3"}
    assert dict(early.tags) == {}


def test_the_fingerprint_follows_attributes_and_tags(write) -> None:
    plain = open_coco(write()).fingerprint
    with_attribute = open_coco(write(_annotation(attributes={"colour": "red"}))).fingerprint
    root = write(lambda labels: labels["images"][0].update(tags={"weather": "rain"}))

    assert len({plain, with_attribute, open_coco(root).fingerprint}) == 3
