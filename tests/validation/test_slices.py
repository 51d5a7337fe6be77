import numpy as np
import pytest

from avcompress.contract import Validation
from avcompress.spec import RecipeError
from validation.predictions import BoxPredictions
from validation.slices import Slice, make_slices, objects_in_part
from validation.truth import Objects, Truth


def truth(boxes=(), tags=None, attributes=None, ignore=None, brightness=(10, 100, 200), masks=None):
    """Boxes are (image, left, top, right, bottom) in three images of 300 x 300."""
    rows = np.array(boxes, np.float64).reshape(-1, 5)
    xyxy = rows[:, 1:].astype(np.float32)
    objects = Objects(
        rows[:, 0].astype(np.int64),
        xyxy,
        np.zeros(len(rows), np.int64),
        np.zeros(len(rows), bool) if ignore is None else np.array(ignore),
        np.prod(rows[:, 3:] - rows[:, 1:3], axis=1),
        {name: np.array(values) for name, values in (attributes or {}).items()},
    )
    return Truth(
        ("a", "b", "c"),
        ("car",),
        "0" * 64,
        np.full((3, 2), 300, np.int32),
        np.array(brightness, np.float32),
        {name: np.array(values) for name, values in (tags or {}).items()},
        objects if masks is None else None,
        masks,
    )


SMALL, LARGE = (0, 0, 0, 20, 20), (1, 150, 150, 290, 290)


def by_name(*args, settings=None, **kwargs) -> dict[str, Slice]:
    return {part.name: part for part in make_slices(truth(*args, **kwargs), settings or Validation())}


def test_sizes_positions_and_brightness_by_hand():
    parts = by_name([SMALL, LARGE])
    # Image c has no object, so no slice is made for bright images.
    assert list(parts) == [
        *("all", "size:small", "size:large"),
        *("position:left", "position:right", "position:top", "position:bottom"),
        *("brightness:dark", "brightness:medium"),
    ]
    assert parts["size:small"].objects.tolist() == [True, False]
    assert parts["size:small"].images.all()
    assert parts["position:right"].objects.tolist() == [False, True]
    assert parts["position:bottom"].objects.tolist() == [False, True]
    assert parts["brightness:dark"].images.tolist() == [True, False, False]
    assert parts["brightness:dark"].objects is None


def test_predictions_are_sorted_into_slices_like_objects():
    parts = by_name([SMALL, LARGE])
    found = BoxPredictions(
        ("a", "b", "c"),
        np.array([0, 2]),
        np.array([[0, 0, 32, 32], [250, -20, 290, 10]], np.float32),
        np.ones(2, np.float32),
        np.zeros(2, np.int64),
    )
    assert parts["size:small"].detections(found).tolist() == [True, False]
    assert parts["position:top"].detections(found).tolist() == [True, True]
    assert parts["position:right"].detections(found).tolist() == [False, True]


def test_distances_and_words_make_slices_and_unknown_ones_are_in_none():
    boxes = [SMALL, LARGE, LARGE, LARGE]
    attributes = {
        "distance_m": [20.0, 60.0, np.nan, 5.0],
        "occlusion": ["partly", "", "none", "largely"],
        "height": [1.0] * 4,
    }
    parts = by_name(boxes, attributes=attributes, ignore=[False, False, False, True])
    assert [name for name in parts if name.startswith(("distance", "occlusion", "height"))] == [
        *("distance:middle", "distance:far", "occlusion:none", "occlusion:partly")
    ]
    assert parts["distance:middle"].objects.tolist() == [True, False, False, False]
    four = by_name(boxes, attributes=attributes, settings=Validation(distance_m=(10, 20, 40), slices=("distance",)))
    assert list(four) == ["all", "distance:0-10", "distance:20-40", "distance:40+"]


def test_tags_of_images_make_slices():
    parts = by_name([SMALL, LARGE], tags={"weather": ["rain", "", "snow"], "size": ["x", "x", "x"]})
    assert parts["weather:rain"].images.tolist() == [True, False, False]
    assert "weather:snow" not in parts, "no object is in that image"
    assert "size:x" not in parts, "a family of our own has that name"


def test_names_of_things_are_no_conditions_unless_asked_for():
    boxes, tracks = [SMALL] * 40, [f"track {i}" for i in range(40)]
    assert not any(name.startswith("track:") for name in by_name(boxes, attributes={"track": tracks}))
    asked = by_name(boxes, attributes={"track": tracks}, settings=Validation(slices=("track",)))
    assert len(asked) == 41


def test_ignored_objects_and_foreign_classes_are_in_no_slice():
    labels = truth([SMALL, LARGE, LARGE], ignore=[False, True, False])
    labels.objects.labels[2] = 7
    everything = make_slices(labels, Validation())[0]
    assert objects_in_part(everything, labels).tolist() == [True, False, False]


def test_masks_are_sliced_into_bands_of_pixels():
    parts = by_name(tags={"weather": ["rain", "rain", ""]}, masks=(b"", b"", b""))
    assert [name for name in parts if name.startswith(("position", "weather", "size"))] == [
        *(f"position:{place}" for place in ("left", "center", "right", "top", "middle", "bottom")),
        "weather:rain",
    ]
    assert parts["position:left"].band == (1, 0)


def test_what_the_labels_do_not_tell_is_refused_with_what_they_do():
    with pytest.raises(
        RecipeError, match=r"validation.slices: expected what .*\(size, position, brightness\), got 'sizes'"
    ):
        by_name([SMALL], settings=Validation(slices=("sizes",)))
    with pytest.raises(
        RecipeError, match=r"validation.distance_m: expected borders from low to high, got \[40.0, 20.0\]"
    ):
        by_name([SMALL], settings=Validation(distance_m=(40, 20)))
