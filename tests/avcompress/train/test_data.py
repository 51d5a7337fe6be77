"""How labelled samples become batches: order, memory, labels, what chance does to them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avcompress.recipe import ImageSource, Preprocess, SceneSource
from avcompress.recipe_training import Augment, Train
from avcompress.spec import DataError
from avcompress.train import batch_order, feed, load, mirror
from avcompress.train.augment import Change, draw, place
from avcompress.train.data import Streamed
from avcompress.train.loop import Turn
from calibration.images import open_images
from calibration.preprocess import preprocess
from calibration.sample import Boxes, Sample
from calibration.scenes import open_scenes

PREPROCESS = Preprocess(size=(64, 96), fit="stretch", scale=1 / 255, mean=(10.0, 20.0, 30.0), channels="bgr")


def scenes(labels: str, count: int = 6):
    return open_scenes(
        SceneSource.model_validate({"format": "scenes", "count": count, "size": (64, 96), "labels": labels})
    )


def plan(**changes: object) -> Train:
    return Train.model_validate({"kind": "train", "steps": 4, "batch_size": 4, **changes})


def box_sample(width: int = 10) -> Sample:
    boxes = Boxes(np.array([[1, 2, 4, 6]], np.float32), np.array([0]), np.array([False]), np.array([12.0]))
    mask = np.tile(np.arange(width, dtype=np.uint8), (8, 1))
    image = np.repeat(mask[..., None], 3, axis=2)
    return Sample("s", image, boxes, mask)


def test_every_sample_comes_once_before_any_comes_again():
    order = batch_order(6, plan(steps=3, batch_size=4)).ravel().tolist()

    assert sorted(order[:6]) == sorted(order[6:]) == [0, 1, 2, 3, 4, 5]


def test_an_unchanged_picture_enters_training_as_it_enters_the_network():
    source = scenes("boxes", count=1)
    dataset = load(source, PREPROCESS)

    class Never:
        def random(self) -> float:
            return 1.0

        def uniform(self, *_: float) -> float:
            return 1.0

    inputs, batch = dataset.batch([0], Never())

    assert (inputs.numpy() == preprocess(source[0].image, PREPROCESS)[0]).all()
    assert (batch[0].image[..., ::-1] == source[0].image).all()


def test_labels_move_with_the_picture_into_the_network_s_input():
    sample = box_sample()
    doubled = PREPROCESS.model_copy(update={"size": (16, 20)})

    class One(list):
        pass

    moved = load(One([sample]), doubled).pictures[0]

    assert moved.image.shape == (16, 20, 3)
    assert moved.boxes.xyxy.tolist() == [[2, 4, 8, 12]]
    assert moved.mask.shape == (16, 20)


def test_mirroring_by_hand_and_twice_is_nothing():
    sample = box_sample()

    mirrored = mirror(sample)
    back = mirror(mirrored)

    assert mirrored.boxes.xyxy.tolist() == [[6, 2, 9, 6]]
    assert mirrored.mask[0].tolist() == list(range(10))[::-1]
    assert (back.boxes.xyxy == sample.boxes.xyxy).all()
    assert (back.image == sample.image).all()


# --- memory, labels, processes


@pytest.mark.parametrize("labels", ["boxes", "masks"])
def test_pictures_that_are_decoded_at_each_use_are_those_that_are_held(labels):
    held, streamed = (feed(load(scenes(labels), PREPROCESS, hold_mb=mb), plan()) for mb in (2048, 0))

    assert isinstance(streamed.dataset.pictures, Streamed)
    assert isinstance(held.dataset.pictures, tuple)
    for step in range(4):
        (a, kept), (b, made) = held(Turn(step)), streamed(Turn(step))
        assert torch.equal(a, b)
        assert [s.name for s in kept] == [s.name for s in made] == list(held.names(step))
        assert all((x.image == y.image).all() for x, y in zip(kept, made, strict=True))


def test_an_image_that_cannot_be_read_is_left_out_of_what_is_streamed(tmp_path):
    import cv2

    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), 60 * i, np.uint8))
    (tmp_path / "1.png").write_bytes(b"no image")
    source = open_images(
        ImageSource.model_validate({"format": "images", "images": ".", "on_bad_image": "skip"}), tmp_path, None
    )

    dataset = load(source, PREPROCESS, hold_mb=0, labels=False)

    assert dataset.names == ("0.png", "2.png", "3.png")
    assert [dataset.pictures[i].image[0, 0, 0] for i in range(3)] == [0, 120, 180]


def test_unlabelled_samples_are_taken_where_the_loss_needs_no_labels():
    class Bare(list):
        pass

    bare = Bare([Sample("plain", np.zeros((4, 4, 3), np.uint8))])

    assert load(bare, PREPROCESS, labels=False).names == ("plain",)
    with pytest.raises(DataError, match="plain: expected boxes or a mask to learn from, got neither"):
        load(bare, PREPROCESS)


def test_the_parts_of_a_batch_are_the_batch():
    batches = feed(load(scenes("boxes"), PREPROCESS), plan(augment={"scale": [0.5, 2], "shift": 0.2}))

    whole, samples = batches(Turn(1))
    parts = [batches(Turn(1, part, 2)) for part in range(2)]

    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), whole)
    assert [s.name for _, found in parts for s in found] == [s.name for s in samples]


# --- augmentation


def test_a_picture_is_enlarged_about_its_middle_and_moved_by_hand():
    """Twice the size, then 2 pixels right: edges x -> 2 x - 5 + 2, y -> 2 y - 4."""
    placed = place(box_sample(), Change(False, 1.0, 2.0, 0.2, 0.0), 114)

    assert placed.boxes.xyxy.tolist() == [[0, 0, 5, 8]]  # 1 2 4 6 becomes -1 0 5 8
    assert placed.boxes.area.tolist() == [48]
    assert placed.mask[0].tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert placed.mask.shape == (8, 10)


def test_what_comes_into_view_is_grey_and_void_and_what_leaves_is_no_object():
    placed = place(box_sample(), Change(False, 1.0, 1.0, -0.5, 0.0), 114)

    assert placed.mask[0].tolist() == [5, 6, 7, 8, 9, 255, 255, 255, 255, 255]
    assert placed.image[0, -1].tolist() == [114, 114, 114]
    assert len(placed.boxes.labels) == 0


def test_an_object_of_which_little_is_left_is_ignored():
    moved = place(box_sample(), Change(False, 1.0, 1.0, -0.35, 0.0), 114).boxes  # 1..4 becomes -2.5..0.5

    assert moved.xyxy.tolist() == [[0, 2, 0.5, 6]]
    assert moved.ignore.tolist() == [True]


@given(st.integers(0, 2**32), st.floats(0.1, 1), st.floats(1, 4), st.floats(0, 0.5))
def test_boxes_and_masks_move_alike(seed, small, large, shift):
    """The box of a bright rectangle is where the rectangle's mask is, within a pixel."""
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 15:40] = 1
    boxes = Boxes(np.array([[15, 10, 40, 30]], np.float32), np.array([0]), np.array([False]), np.array([500.0]))
    change = draw(np.random.default_rng(seed), Augment(scale=(small, large), shift=shift))

    placed = place(Sample("s", np.repeat(mask[..., None], 3, 2), boxes, mask), change, 114)

    rows, columns = np.nonzero(placed.mask == 1)
    if len(rows) and len(placed.boxes.labels):
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(placed.boxes.xyxy[0] - found).max() <= 1


def test_without_settings_chance_draws_what_it_always_drew():
    rng, other = np.random.default_rng(3), np.random.default_rng(3)

    change = draw(rng, Augment())

    assert change == Change(other.random() < 0.5, other.uniform(0.75, 1.25))
    assert rng.random() == other.random()


def test_lit_by_nothing_and_never_mirrored_is_the_picture_itself():
    source = scenes("boxes", count=1)
    dataset = load(source, PREPROCESS)

    inputs, _ = dataset.batch([0], np.random.default_rng(0), Augment(mirror=0, brightness=0))

    assert (inputs.numpy() == preprocess(source[0].image, PREPROCESS)[0]).all()
    assert replace(dataset.pictures[0]).name == dataset.names[0]
