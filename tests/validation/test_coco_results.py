import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from avcompress.recipe import CocoSource
from avcompress.spec import DataError
from calibration.classes import ClassTable
from calibration.coco import CocoIds, read_ids
from calibration.source import open_source
from validation.coco_results import read_coco_results, write_coco_results
from validation.predictions import BoxPredictions, check_predictions
from validation.truth import read_truth

IDS = CocoIds(
    images={7: "late.png", 2: "early.png", "cam-1": "middle.png"},
    categories={3: "car", 4: "van", 9: "person", 11: "sky"},
    table=ClassTable(("person", "car"), {"van": "car", "sky": None}),
)
NAMES = ("early.png", "late.png")
GOOD = {"image_id": 7, "category_id": 9, "bbox": [1, 2, 3.5, 4], "score": 0.5}


def write(tmp_path, *entries, **changes):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([*entries, {**GOOD, **changes}] if changes else list(entries)))
    return path


def test_entries_come_by_image_in_xyxy_and_the_networks_classes(tmp_path):
    van = {"image_id": 2, "category_id": 4, "bbox": [0, 0, 2, 2], "score": 1}
    car = {**van, "category_id": 3, "score": 0.25}

    found = read_coco_results(write(tmp_path, GOOD, van, car), IDS, NAMES)

    assert found.names == NAMES
    assert found.image.tolist() == [0, 0, 1]
    assert found.xyxy.tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [1, 2, 4.5, 6]]
    assert found.scores.tolist() == [1, 0.25, 0.5]
    assert found.labels.tolist() == [1, 1, 0]
    kinds = [str(column.dtype) for column in (found.image, found.xyxy, found.scores, found.labels)]
    assert kinds == ["int64", "float32", "float32", "int64"]


def test_images_that_are_not_chosen_and_ignored_categories_are_left_out(tmp_path):
    path = write(tmp_path, {**GOOD, "image_id": "cam-1"}, {**GOOD, "category_id": 11}, {**GOOD, "image_id": "007"})

    found = read_coco_results(path, IDS, NAMES)

    assert found.image.tolist() == [1]


def test_no_detection_is_legal(tmp_path):
    found = read_coco_results(write(tmp_path), IDS, NAMES)

    assert found.xyxy.shape == (0, 4)
    assert found.names == NAMES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, r"results\.json: entry 1: expected an image of the labels, got image_id 8"),
        ({"image_id": "early.png"}, "entry 1: expected an image of the labels, got image_id 'early.png'"),
        ({"category_id": 0}, "entry 1: expected a category of the labels, got category_id 0"),
        ({"bbox": [1, 2, float("nan"), 4]}, "entry 1: expected finite pixels and a score in 0-1, got bbox .*nan"),
        ({"bbox": [1, 2, float("inf"), 4]}, "entry 1: expected finite pixels"),
        ({"score": float("nan")}, "entry 1: expected finite pixels and a score in 0-1, .* score nan"),
        ({"score": 1.5}, r"entry 1: expected finite pixels and a score in 0-1, .* score 1\.5"),
        ({"score": -0.1}, "entry 1: expected finite pixels and a score in 0-1"),
        ({"bbox": [9, 9, -3, 4]}, "entry 1: expected left, top, width, height, got bbox"),
        ({"bbox": [1, 2, 3]}, "entry 1: bbox: 3: expected COCO results"),
        ({"bbox": None}, "entry 1: bbox: expected COCO results"),
        ({"score": "high"}, "entry 1: score: expected COCO results"),
        ({"score": "0.5"}, "entry 1: score: expected COCO results"),
        ({"score": 0.5}, "entry 1: expected each detection once, got entry 0 again"),
    ],
)
def test_bad_entries_are_named(tmp_path, change, message):
    path = write(tmp_path, GOOD, **change)

    with pytest.raises(DataError, match=message) as caught:
        read_coco_results(path, IDS, NAMES)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"null", b"[1]", b"\xff\xfe", b"[" * 10_000])
def test_what_is_no_list_of_results_is_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"results\.json.*: expected COCO results, a list of") as caught:
        read_coco_results(path, IDS, NAMES)

    assert "\n" not in str(caught.value)


def test_a_category_without_a_class_names_its_label(tmp_path):
    ids = CocoIds(IDS.images, IDS.categories, ClassTable(("car",), {}))

    with pytest.raises(DataError, match="entry 0: expected a known class, got label 'person'"):
        read_coco_results(write(tmp_path, GOOD), ids, NAMES)


@st.composite
def detections(draw):
    count = draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    corners = np.sort(rng.uniform(0, 2000, (count, 2, 2)), axis=1)
    return BoxPredictions(
        NAMES,
        np.sort(rng.integers(0, 2, count)),
        corners.reshape(-1, 4).astype(np.float32),
        rng.random(count).astype(np.float32),
        rng.integers(0, 2, count),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=detections())
def test_what_is_written_is_read_alike(tmp_path, found):
    path = tmp_path / "results.json"

    write_coco_results(path, found, IDS)

    again = read_coco_results(path, IDS, NAMES)
    for name in ("image", "xyxy", "scores", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def test_a_class_is_written_as_the_category_of_its_own_name_or_else_as_one_that_an_alias_leads_from(tmp_path):
    one = np.zeros(1, np.int64)
    found = BoxPredictions(("late.png",), one, np.ones((1, 4), np.float32), np.ones(1, np.float32), one + 1)

    def category(aliases, categories):
        path = tmp_path / "results.json"
        write_coco_results(path, found, CocoIds(IDS.images, categories, ClassTable(("person", "car"), aliases)))
        return json.loads(path.read_text())[0]["category_id"]

    assert category({"van": "car"}, {2: "van", 3: "car"}) == 3
    assert category({"van": "car", "truck": "car"}, {2: "van", 5: "truck"}) == 2
    with pytest.raises(DataError, match="class 1: expected a category of the COCO labels for it, got none"):
        category({}, {2: "van"})


def test_images_without_an_id_are_refused(tmp_path):
    none = np.zeros(0, np.int64)
    found = BoxPredictions(("other.png",), none, np.zeros((0, 4), np.float32), none.astype(np.float32), none)

    with pytest.raises(DataError, match=r"other\.png: expected an image of the COCO labels"):
        write_coco_results(tmp_path / "results.json", found, IDS)
    assert not (tmp_path / "results.json").exists()


def test_val2017_labels_as_results_are_what_pycocotools_reads(tmp_path, data_root, capsys):
    source = CocoSource(
        format="coco", images="coco_mini/val2017", labels="coco_mini/annotations/instances_val2017.json", limit=20
    )
    truth = read_truth(open_source(source, data_root))
    kept = ~truth.objects.ignore
    columns = (truth.objects.image, truth.objects.xyxy, truth.objects.labels)
    image, xyxy, labels = (column[kept] for column in columns)
    scores = np.linspace(0, 1, len(labels), dtype=np.float32)
    found = BoxPredictions(truth.names, image, xyxy, scores, labels)
    ids = read_ids(source, data_root, None)
    path = tmp_path / "results.json"

    write_coco_results(path, found, ids)

    check_predictions(read_coco_results(path, ids, truth.names), truth)
    official = COCO(data_root / source.labels)
    results = official.loadRes(str(path))
    for index, name in enumerate(truth.names):
        (key,) = (key for key, file in ids.images.items() if file == name)
        expected = [a for a in official.imgToAnns[key] if not a["iscrowd"]]
        got = results.imgToAnns[key]
        assert [a["category_id"] for a in got] == [a["category_id"] for a in expected]
        assert len(got) == (image == index).sum()
        boxes = [[a["bbox"] for a in each] for each in (got, expected)]
        np.testing.assert_allclose(*(np.reshape(each, (-1, 4)) for each in boxes), atol=1e-3)
