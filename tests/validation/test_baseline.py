import json
from datetime import datetime, timezone

import numpy as np
import pytest

from avcompress.spec import DataError, RecipeError
from validation.baseline import FILE, Baseline, BaselineFacts, DataSet, data_set, read_baseline, write_baseline
from validation.mask_png import encode_mask
from validation.predictions import BoxPredictions, MaskPredictions
from validation.truth import Truth

DATA = DataSet(name="val2017", images=2, fingerprint="1c" * 32, classes=("car", "person"), task="detection")


def boxes(score=0.5):
    image = np.array([0, 1])
    return BoxPredictions(("a.png", "b.png"), image, np.ones((2, 4), np.float32), np.full(2, score, np.float32), image)


def baseline(**changes):
    facts = {
        "created": datetime(2027, 3, 4, 15, 9, tzinfo=timezone.utc),
        "recipe": "yolox",
        "data": DATA,
        "network_sha256": "9f" * 32,
        "versions": {"avcompress": "0.1.0"},
        "figures": {"float network": {"AP": 0.1 + 0.2, "AP/person": float("nan")}, "openvino": {"AP": 0.25}},
        "latency_ms": {"openvino": {"single_stream": (4.5, 1 / 3)}},
        "settings": {"score_threshold": 0.001},
        **changes,
    }
    return Baseline(BaselineFacts(**facts), {"float network": boxes(), "openvino": boxes(0.25), "fog:3": boxes(0.125)})


@pytest.fixture
def stored(tmp_path):
    folder = tmp_path / "baseline"
    write_baseline(folder, baseline())
    return folder


def refused(folder, message, at_hand=DATA):
    with pytest.raises(DataError, match=message) as caught:
        read_baseline(folder, at_hand)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def change(folder, **values):
    """Change keys of the stored JSON, as an editor would."""
    path = folder / FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_baseline_comes_back_as_it_was_stored(stored):
    found = read_baseline(stored, DATA)

    assert found.facts == baseline().facts
    assert found.facts.figures["float network"] == {"AP": 0.1 + 0.2, "AP/person": None}
    assert found.facts.latency_ms["openvino"]["single_stream"] == (4.5, 1 / 3)
    assert {role: one.scores.tolist() for role, one in found.predictions.items()} == {
        "float network": [0.5, 0.5],
        "openvino": [0.25, 0.25],
        "fog:3": [0.125, 0.125],
    }
    assert read_baseline(stored).facts == found.facts


def test_masks_are_stored_too(tmp_path):
    masks = MaskPredictions(("a.png",), (encode_mask(np.eye(9, dtype=np.uint8)),))

    write_baseline(tmp_path / "b", Baseline(baseline().facts, {"ort": masks}))

    found = read_baseline(tmp_path / "b").predictions["ort"]
    assert (found.names, found.masks) == (masks.names, masks.masks)


@pytest.mark.parametrize("role", ["../../up", "a/b", "..", "night 3", "\u00e9"])
def test_no_role_leaves_the_folder(tmp_path, role):
    write_baseline(tmp_path / "b", Baseline(baseline().facts, {role: boxes()}))

    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert len(list((tmp_path / "b").iterdir())) == 2
    assert set(read_baseline(tmp_path / "b").predictions) == {role}


def test_another_data_set_is_refused_by_hash_and_both_are_named(stored):
    other = DATA.model_copy(update={"fingerprint": "7e" * 32, "name": "night", "images": 31})

    refused(
        stored,
        r"at hand, night \(31 images, sha256 7e7e7e7e7e7e\), got one of other data, val2017 \(2 images, sha256 1c1c1c",
        other,
    )


def test_other_classes_and_another_task_are_refused(stored):
    refused(
        stored,
        "expected a baseline of the classes person, car, got one of car, person",
        DATA.model_copy(update={"classes": ("person", "car")}),
    )
    refused(
        stored,
        "expected a baseline of segmentation, got one of detection",
        DATA.model_copy(update={"task": "segmentation"}),
    )


@pytest.mark.parametrize(
    "values",
    [
        {"network_sha256": "00" * 32},
        {"figures": {}},
        {"latency_ms": {"openvino": {"single_stream": [4.5]}}},
        {"data": {**DATA.model_dump(mode="json"), "fingerprint": "7e" * 32}},
        {"predictions": {}},
        {"sha256": "00" * 32},
        {"sha256": None},
        {"more": 1},
    ],
)
def test_a_changed_file_is_refused(stored, values):
    change(stored, **values)

    refused(stored, r"baseline\.json: expected what was stored, got a file that was changed since")


def test_a_file_that_is_only_formatted_otherwise_is_the_same(stored):
    content = json.loads((stored / FILE).read_text())
    (stored / FILE).write_text(json.dumps(dict(reversed(content.items())), indent=7))

    assert read_baseline(stored, DATA).facts == baseline().facts


def test_changed_or_missing_predictions_are_refused(stored):
    path = stored / "predictions-openvino.npz"
    path.write_bytes((stored / "predictions-fog%3A3.npz").read_bytes())
    refused(stored, r"predictions-openvino\.npz: expected what was stored")

    path.unlink()
    refused(stored, r"predictions-openvino\.npz: expected the baseline's predictions, got No such file")


def test_an_unknown_newer_version_is_refused_before_anything_else(stored):
    change(stored, schema_version=2, new_key={"a": 1})

    refused(stored, r"baseline\.json: expected a baseline of version 1, got 2; use the avcompress it is of")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_baseline_is_refused(stored, content):
    (stored / FILE).write_bytes(content)

    refused(stored, r"baseline\.json: expected the JSON of a baseline")


def test_a_missing_baseline_and_a_json_of_something_else_are_refused(tmp_path):
    refused(tmp_path / "none", r"baseline\.json: expected a stored baseline, got No such file")
    (tmp_path / FILE).write_text('{"images": []}')
    refused(tmp_path, "expected a baseline of version 1, got None")


def test_a_folder_that_holds_something_else_is_not_overwritten(tmp_path, stored):
    (tmp_path / "drive.bag").write_text("hours of driving")

    with pytest.raises(RecipeError, match="expected a new folder or an earlier baseline"):
        write_baseline(tmp_path, baseline())

    assert (tmp_path / "drive.bag").read_text() == "hours of driving"


def test_an_earlier_baseline_is_replaced_whole(stored):
    write_baseline(stored, Baseline(baseline(recipe="new").facts, {"ort": boxes()}))

    assert sorted(path.name for path in stored.iterdir()) == ["baseline.json", "predictions-ort.npz"]
    assert read_baseline(stored).facts.recipe == "new"


def test_the_data_set_is_that_of_the_labels():
    truth = Truth(("a", "b"), ("car", "person"), "1c" * 32, np.zeros((2, 2)), np.zeros(2), {}, masks=(b"", b""))

    assert data_set(truth, "val2017") == DATA.model_copy(update={"task": "segmentation"})
