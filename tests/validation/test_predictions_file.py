import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avcompress.spec import DataError
from validation.mask_png import encode_mask
from validation.predictions import BoxPredictions, MaskPredictions
from validation.predictions_file import from_bytes, load_predictions, save_predictions, to_bytes

ABOUT = {"fingerprint": "f" * 64, "versions": {"numpy": "2"}, "threshold": 0.25, "drive": None}
NAMES = st.lists(st.text(max_size=8), min_size=1, max_size=4, unique=True).map(tuple)


@st.composite
def box_predictions(draw):
    names = draw(NAMES)
    count = draw(st.integers(0, 6))
    image = np.sort(draw(hnp.arrays(np.int64, count, elements=st.integers(0, len(names) - 1))))
    floats = st.floats(width=32)  # also NaN: what is wrong must be stored as it is
    xyxy = draw(hnp.arrays(np.float32, (count, 4), elements=floats))
    scores = draw(hnp.arrays(np.float32, count, elements=floats))
    labels = draw(hnp.arrays(np.int64, count))
    return BoxPredictions(names, image, xyxy, scores, labels)


@given(found=box_predictions())
def test_boxes_come_back_bit_by_bit(found):
    again, about = from_bytes(to_bytes(found, ABOUT))

    assert isinstance(again, BoxPredictions)
    assert again.names == found.names
    assert about == ABOUT
    for name in ("image", "xyxy", "scores", "labels"):
        before, after = getattr(found, name), getattr(again, name)
        assert (before.dtype, before.shape, before.tobytes()) == (after.dtype, after.shape, after.tobytes())


@given(names=NAMES, seed=st.integers(0, 9))
def test_masks_come_back(names, seed):
    rng = np.random.default_rng(seed)
    masks = tuple(encode_mask(rng.integers(0, 9, rng.integers(1, 9, 2), np.uint8)) for _ in names)

    again, _ = from_bytes(to_bytes(MaskPredictions(names, masks), {}))

    assert (again.names, again.masks) == (names, masks)


def small():
    one = np.zeros(1, np.int64)
    return BoxPredictions(("a",), one, np.ones((1, 4), np.float32), np.ones(1, np.float32), one)


def test_a_file_is_written_whole_and_read_again(tmp_path):
    path = tmp_path / "new" / "found.npz"

    save_predictions(path, small(), ABOUT)

    found, about = load_predictions(path)
    assert found.xyxy.tolist() == [[1, 1, 1, 1]]
    assert about == ABOUT
    assert [entry.name for entry in path.parent.iterdir()] == ["found.npz"]


def refused(path, message):
    with pytest.raises(DataError, match=message) as caught:
        load_predictions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[1, 2]", b"\x93NUMPY", b"PK\x03\x04", b"PK\x03\x04" + bytes(100)])
def test_a_foreign_file_is_refused_in_one_line(tmp_path, data):
    path = tmp_path / "found.npz"
    path.write_bytes(data)
    refused(path, "expected (whole )?predictions")


def test_a_file_cut_off_anywhere_is_refused_in_one_line(tmp_path):
    path = tmp_path / "found.npz"
    data = to_bytes(small(), ABOUT)
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(path, "expected (whole )?predictions")


def test_a_missing_file_is_named(tmp_path):
    refused(tmp_path / "none.npz", "expected a readable file of predictions, got No such file")


def packed(header, **arrays):
    file = io.BytesIO()
    np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return file.getvalue()


HEADER = {"schema_version": 1, "kind": "boxes", "names": ["a"], "about": {}}
ONE = np.zeros(1, np.int64)
BOXES = {"image": ONE, "xyxy": np.ones((1, 4), np.float32), "scores": np.ones(1, np.float32), "labels": ONE}


@pytest.mark.parametrize(
    ("header", "arrays", "message"),
    [
        ({**HEADER, "schema_version": 2}, BOXES, "expected predictions of version 1, got 2; use the avcompress"),
        ({**HEADER, "schema_version": "x"}, BOXES, "version 1, got 'x'"),
        ({**HEADER, "kind": "polygons"}, BOXES, "fit together"),
        ({**HEADER, "more": 1}, BOXES, "fit together"),
        ({"schema_version": 1}, BOXES, "fit together"),
        ([], BOXES, "expected whole predictions"),
        (HEADER, {**BOXES, "image": ONE + 1}, "fit together"),
        (HEADER, {**BOXES, "image": ONE - 1}, "fit together"),
        (HEADER, {**BOXES, "scores": np.ones(1)}, "fit together"),
        (HEADER, {**BOXES, "scores": np.ones(2, np.float32)}, "fit together"),
        (HEADER, {**BOXES, "xyxy": np.ones((1, 5), np.float32)}, "fit together"),
        (HEADER, {**BOXES, "more": ONE}, "fit together"),
        (HEADER, {"image": ONE}, "fit together"),
        ({**HEADER, "kind": "masks"}, {"png": np.zeros(3, np.uint8), "ends": ONE + 4}, "fit together"),
        ({**HEADER, "kind": "masks"}, {"png": np.zeros(3, np.uint8), "ends": np.arange(2)}, "fit together"),
        (HEADER, {**BOXES, "scores": np.array([{}], object)}, "expected whole predictions"),
    ],
)
def test_an_archive_of_other_arrays_is_refused(tmp_path, header, arrays, message):
    path = tmp_path / "found.npz"
    path.write_bytes(packed(header, **arrays))
    refused(path, message)
