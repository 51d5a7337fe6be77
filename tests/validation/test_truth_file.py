from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from validation.truth import Objects, Truth
from validation.truth_file import load_truth, save_truth


def boxes(objects):
    return Truth(
        names=("a.png", "b\u00e9.png"),
        classes=("car", "person"),
        fingerprint="ab" * 32,
        sizes=np.array([[10, 20], [30, 40]], np.int32),
        brightness=np.array([12.5, 200], np.float32),
        tags={"weather": np.array(["rain", ""]), "a/../b": np.array(["", "x"])},
        objects=objects,
    )


def test_labels_with_boxes_come_back_as_they_were(tmp_path: Path) -> None:
    objects = Objects(
        image=np.array([0, 1, 1]),
        xyxy=np.arange(12, dtype=np.float32).reshape(3, 4),
        labels=np.array([0, 1, -1]),
        ignore=np.array([False, False, True]),
        area=np.array([1.0, 2.0, 3.0]),
        attributes={"distance_m": np.array([np.nan, 7.0, 8.0]), "occlusion": np.array(["", "none", "largely"])},
    )
    save_truth(tmp_path / "truth.npz", boxes(objects))
    back = load_truth(tmp_path / "truth.npz")

    assert (back.names, back.classes, back.fingerprint) == (("a.png", "b\u00e9.png"), ("car", "person"), "ab" * 32)
    assert {name: list(values) for name, values in back.tags.items()} == {"weather": ["rain", ""], "a/../b": ["", "x"]}
    np.testing.assert_array_equal(back.sizes, [[10, 20], [30, 40]])
    np.testing.assert_array_equal(back.brightness, np.float32([12.5, 200]))
    for name in ("image", "xyxy", "labels", "ignore", "area"):
        np.testing.assert_array_equal(getattr(back.objects, name), getattr(objects, name))
        assert getattr(back.objects, name).dtype == getattr(objects, name).dtype
    for name, values in objects.attributes.items():
        np.testing.assert_array_equal(back.objects.attributes[name], values)
    assert back.masks is None


@given(masks=st.lists(st.binary(max_size=20), max_size=4).map(tuple))
def test_masks_come_back_byte_by_byte(tmp_path_factory, masks) -> None:
    path = tmp_path_factory.mktemp("truth") / "truth.npz"
    save_truth(path, Truth((), (), "", np.zeros((0, 2), np.int32), np.zeros(0, np.float32), {}, None, masks))

    assert load_truth(path).masks == masks
    assert load_truth(path).objects is None
