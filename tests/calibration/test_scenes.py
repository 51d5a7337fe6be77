"""Rendered scenes: the same bytes every time, and labels that agree with the pixels."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.recipe import SceneSource
from avcompress.spec import Array
from calibration.sample import VOID, Sample
from calibration.scenes import Scenes, open_scenes
from calibration.scenes.canvas import CAR, FIRST_OWNER, PERSON, SCALE, SKY, STUFF, THINGS, VEHICLE, Canvas, capsules
from calibration.scenes.labels import MIN_SIDE, MIN_VISIBLE, boxes_of, mask_of
from calibration.scenes.lens import make_textures
from calibration.scenes.render import render
from calibration.scenes.view import Camera
from calibration.scenes.world import make_world

TEXTURES = make_textures()


def scenes(**changes: object) -> Scenes:
    return open_scenes(SceneSource.model_validate({"format": "scenes", "count": 8, "seed": 3, **changes}))


def digest(sample: Sample) -> str:
    assert sample.boxes is not None
    parts = (sample.image, sample.boxes.xyxy, sample.boxes.labels, sample.boxes.ignore)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def square(x: int, y: int, side: int) -> Array:
    return np.array([(x, y), (x + side - 1, y), (x + side - 1, y + side - 1), (x, y + side - 1)])


# --- the series


def test_scenes_tell_light_weather_and_setting_and_how_far_objects_are():
    source = scenes(count=40, size=(96, 160))

    found = list(source)

    assert {sample.tags["light"] for sample in found} == {"day", "sunset", "night"}
    assert {sample.tags["weather"] for sample in found} == {"clear", "cloudy", "rain"}
    assert {sample.tags["setting"] for sample in found} == {"city", "suburb", "country"}
    luma = {light: [s.image.mean() for s in found if s.tags["light"] == light] for light in ("day", "night")}
    assert np.mean(luma["night"]) < np.mean(luma["day"])
    boxes = [sample.boxes for sample in found]
    distance = np.concatenate([one.attributes["distance_m"] for one in boxes])
    height = np.concatenate([one.xyxy[:, 3] - one.xyxy[:, 1] for one in boxes])
    people = np.concatenate([one.labels == THINGS.index("pedestrian") for one in boxes])
    assert (distance > 0).all()
    # A pinhole camera: what is twice as far is half as high.
    assert np.corrcoef(1 / distance[people], height[people])[0, 1] > 0.6
    assert scenes(labels="masks")[0].tags == scenes()[0].tags


def test_a_scene_is_the_same_bytes_whenever_and_in_whichever_order_it_is_asked_for():
    forwards = [digest(sample) for sample in scenes(count=3)]

    source = scenes(count=3)
    backwards = [digest(source[i]) for i in (2, 1, 0)]

    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 3


def test_another_process_draws_the_same_bytes():
    code = (
        "import hashlib; from avcompress.recipe import SceneSource; from calibration.scenes import open_scenes;"
        "s = open_scenes(SceneSource(format='scenes', count=8, seed=3))[1];"
        "print(hashlib.sha256(s.image.tobytes()).hexdigest())"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    assert printed == hashlib.sha256(scenes()[1].image.tobytes()).hexdigest()


def test_other_seeds_are_other_scenes():
    assert (scenes(seed=3)[0].image != scenes(seed=4)[0].image).any()


def test_every_and_limit_choose_scenes_that_keep_their_numbers():
    chosen = scenes(count=10, every=3, limit=2)

    assert chosen.names == ("scene_3_00000", "scene_3_00003")
    assert len(chosen) == 2
    assert digest(chosen[1]) == digest(scenes(count=10)[3])
    assert [sample.name for sample in chosen] == list(chosen.names)


def test_beyond_the_end_is_an_index_error():
    with pytest.raises(IndexError):
        scenes(count=2)[2]


def test_boxes_and_masks_share_the_picture_and_each_brings_its_own_class_table():
    boxes, masks = scenes(labels="boxes"), scenes(labels="masks")

    assert (boxes.classes, masks.classes) == (THINGS, STUFF)
    assert (boxes[0].image == masks[0].image).all()
    assert boxes[0].mask is None
    assert masks[0].boxes is None
    assert boxes.fingerprint != masks.fingerprint
    assert boxes.skipped == ()


def test_fingerprint_follows_what_decides_the_pictures():
    assert scenes().fingerprint == scenes().fingerprint
    assert len({scenes(**change).fingerprint for change in ({}, {"seed": 1}, {"count": 9}, {"size": (96, 160)})}) == 4


def test_any_size_can_be_drawn():
    sample = scenes(size=(100, 250))[0]

    assert sample.image.shape == (100, 250, 3)
    assert sample.image.dtype == np.uint8


def test_pictures_use_the_range_of_a_camera():
    pictures = np.stack([sample.image for sample in scenes()])

    assert 40 < pictures.mean() < 190
    assert all(picture.std() > 15 for picture in pictures)


# --- labels against pixels


@settings(max_examples=15, deadline=None)
@given(number=st.integers(0, 10_000))
def test_boxes_are_the_tight_hull_of_the_pixels_that_each_object_owns(number):
    _, canvas, _ = render((11, number), (192, 320), TEXTURES)

    boxes = boxes_of(canvas)
    owner = canvas.paint[..., 3]

    expected = []
    for value in np.unique(owner[owner >= FIRST_OWNER]).tolist():
        rows, columns = np.nonzero(owner == value)
        expected.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    assert (boxes.xyxy == np.array(expected, np.float32).reshape(-1, 4) / SCALE).all()
    assert (boxes.area > 0).all()
    assert boxes.labels.dtype == np.int64
    assert set(boxes.labels.tolist()) <= set(range(len(THINGS)))


@settings(max_examples=10, deadline=None)
@given(number=st.integers(0, 10_000))
def test_masks_hold_classes_and_void_and_agree_with_the_boxes(number):
    _, canvas, _ = render((12, number), (192, 320), TEXTURES)

    mask, boxes = mask_of(canvas), boxes_of(canvas)

    assert mask.shape == (192, 320)
    assert set(np.unique(mask).tolist()) <= {*range(len(STUFF)), VOID}
    inside = np.zeros_like(mask, bool)
    for x0, y0, x1, y1 in boxes.xyxy.tolist():
        inside[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    things = np.isin(mask, (VEHICLE, PERSON, STUFF.index("sign")))
    assert not (things & ~inside).any()


def test_what_stands_in_front_hides_what_is_behind_it():
    canvas = Canvas.blank(50, 50)
    for x, side in ((10, 40), (18, 40)):
        owner = canvas.own(VEHICLE, CAR, 9.0)
        canvas.fill([square(x, 10, side)], (200, 0, 0), owner)
        canvas.seal(owner, square(x, 10, side))

    boxes = boxes_of(canvas)

    # 8 of the 40 columns of the first are left: a fifth of it.
    assert boxes.xyxy.tolist() == [[5, 5, 9, 25], [9, 5, 29, 25]]
    assert boxes.ignore.tolist() == [MIN_VISIBLE > 8 / 40, False]
    assert boxes.attributes["occlusion"].tolist() == ["largely", "none"]
    assert boxes.attributes["distance_m"].tolist() == [9, 9]
    assert (mask_of(canvas) == VEHICLE).sum() == 24 * 20


def test_an_object_that_is_wholly_hidden_has_no_box():
    canvas = Canvas.blank(50, 50)
    for side in (20, 30):
        owner = canvas.own(VEHICLE, CAR, 9.0)
        canvas.fill([square(10, 10, side)], (0, 0, 0), owner)
        canvas.seal(owner, square(10, 10, side))

    assert boxes_of(canvas).xyxy.tolist() == [[5, 5, 20, 20]]


@pytest.mark.parametrize(("side", "ignored"), [(int(MIN_SIDE) * SCALE - 2, True), (int(MIN_SIDE) * SCALE, False)])
def test_tiny_objects_count_neither_for_nor_against(side, ignored):
    canvas = Canvas.blank(50, 50)
    owner = canvas.own(PERSON, THINGS.index("pedestrian"), 9.0)
    canvas.fill([square(20, 20, side)], (0, 0, 0), owner)
    canvas.seal(owner, square(20, 20, side))

    assert boxes_of(canvas).ignore.tolist() == [ignored]


def test_what_the_frame_cuts_off_does_not_count_as_hidden():
    canvas = Canvas.blank(50, 50)
    owner = canvas.own(VEHICLE, CAR, 9.0)
    canvas.fill([square(-70, 10, 90)], (0, 0, 0), owner)
    canvas.seal(owner, square(-70, 10, 90))

    boxes = boxes_of(canvas)

    assert boxes.xyxy.tolist() == [[0, 5, 10, 50]]
    assert boxes.ignore.tolist() == [False]


def test_an_empty_canvas_has_boxes_of_shape_0_4():
    canvas = Canvas.blank(10, 10)

    assert boxes_of(canvas).xyxy.shape == (0, 4)
    assert (mask_of(canvas) == SKY).all()


def test_all_classes_appear_in_a_hundred_worlds_and_most_pictures_have_several_objects():
    found = [boxes_of(render((5, i), (96, 160), TEXTURES)[1]) for i in range(40)]

    labels = np.concatenate([boxes.labels[~boxes.ignore] for boxes in found])
    assert set(labels.tolist()) == set(range(len(THINGS)))
    assert np.median([len(boxes.labels) for boxes in found]) >= 5


def test_no_world_needs_more_owners_than_a_byte_holds():
    assert all(len(make_world(np.random.default_rng(i)).things) < 240 for i in range(60))


# --- geometry


def test_a_point_on_the_ground_projects_by_similar_triangles():
    camera = Camera(focal=500.0, centre=(320.0, 180.0), height=1.5)

    # 10 m ahead, 2 m to the right, 1.5 m below the camera.
    assert camera.project(np.array([[2.0, 0.0, 10.0]])).tolist() == [[420.0, 255.0]]
    assert camera.at(2.0, 0.0, 10.0).tolist() == [420.0, 255.0]


def test_a_capsule_surrounds_its_limb():
    outline = capsules(np.array([(0.0, 0.0)]), np.array([(10.0, 0.0)]), np.array([(1.0, 2.0)]))[0]

    assert outline[:, 0].min() == pytest.approx(-1)
    assert outline[:, 0].max() == pytest.approx(12)
    assert outline[:, 1].max() == pytest.approx(2)
