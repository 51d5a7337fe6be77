import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.recipe import Preprocess
from avcompress.spec import DataError, RecipeError
from calibration.preprocess import (
    Geometry,
    check_preprocess,
    mask_to_image,
    mask_to_network,
    preprocess,
    to_image,
    to_network,
)

YOLOX = Preprocess(size=(416, 416), anchor="top_left", channels="bgr")
sides = st.integers(1, 300)
fits = st.builds(
    Preprocess,
    size=st.tuples(sides, sides),
    fit=st.sampled_from(["letterbox", "stretch"]),
    anchor=st.sampled_from(["top_left", "center"]),
)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


def yolox_preproc(bgr: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """YOLOX, yolox/data/data_augment.py, restated."""
    padded = np.ones((*size, 3), np.uint8) * 114
    r = min(size[0] / bgr.shape[0], size[1] / bgr.shape[1])
    resized = cv2.resize(bgr, (int(bgr.shape[1] * r), int(bgr.shape[0] * r)), interpolation=cv2.INTER_LINEAR)
    padded[: int(bgr.shape[0] * r), : int(bgr.shape[1] * r)] = resized
    return np.ascontiguousarray(padded.transpose(2, 0, 1), dtype=np.float32)[None]


def test_a_two_pixel_image_is_centred_padded_and_normalized_as_computed_by_hand() -> None:
    image = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    how = Preprocess(size=(3, 2), pad=100, channels="bgr", mean=(10, 20, 30), std=(1, 2, 4), scale=0.5)

    array, geometry = preprocess(image, how)

    assert array.tolist() == [
        [
            [[45, 45], [10, 25], [45, 45]],  # blue: (x - 10) / 1 * 0.5
            [[20, 20], [0, 7.5], [20, 20]],  # green: (x - 20) / 2 * 0.5
            [[8.75, 8.75], [-2.5, 1.25], [8.75, 8.75]],  # red: (x - 30) / 4 * 0.5
        ]
    ]
    assert geometry == Geometry(1, 1, 0, 1, 2, 1)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (427, 640), (640, 426), (370, 1224), (416, 416), (31, 7)])
def test_yolox_settings_equal_yolox_own_preprocessing(height: int, width: int) -> None:
    rgb = noise(height, width)

    array, _ = preprocess(rgb, YOLOX)

    np.testing.assert_array_equal(array, yolox_preproc(np.ascontiguousarray(rgb[:, :, ::-1]), (416, 416)))


def test_espnet_settings_equal_its_own_arithmetic() -> None:
    mean, std = (110.331, 108.409, 105.033), (72.126, 72.691, 69.904)
    rgb = noise(360, 480)
    expected = ((rgb[:, :, ::-1].astype(np.float32) - mean) / std / 255).astype(np.float32).transpose(2, 0, 1)[None]

    array, _ = preprocess(
        rgb, Preprocess(size=(360, 480), channels="bgr", mean=mean, std=std, scale=1 / 255, fit="stretch")
    )

    np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-9)


@given(height=sides, width=sides, how=fits)
@settings(max_examples=60, deadline=None)
def test_the_input_is_contiguous_float32_of_the_network_size_and_grey_where_padded(
    height: int, width: int, how: Preprocess
) -> None:
    array, geometry = preprocess(np.full((height, width, 3), 7, np.uint8), how)

    left, top, right, bottom = (
        to_network(np.array([[0, 0, width, height]], np.float32), geometry)[0].round().astype(int)
    )
    inside = np.zeros(how.size, bool)
    inside[top:bottom, left:right] = True
    assert array.shape == (1, 3, *how.size)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, np.broadcast_to(np.where(inside, 7, how.pad), array.shape))


@given(height=sides, width=sides, how=fits, corners=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
@settings(max_examples=80, deadline=None)
def test_boxes_come_back_from_the_network_where_they_were(
    height: int, width: int, how: Preprocess, corners: list[float]
) -> None:
    _, geometry = preprocess(np.zeros((height, width, 3), np.uint8), how)
    box = np.array([corners], np.float32) * np.array([width, height, width, height], np.float32)

    moved = to_network(box, geometry)

    assert moved.dtype == np.float32
    np.testing.assert_allclose(to_image(moved, geometry), box, atol=0.01)


def test_a_marked_rectangle_is_found_where_to_network_says() -> None:
    image = np.zeros((200, 400, 3), np.uint8)
    image[40:120, 80:240] = 255

    array, geometry = preprocess(image, Preprocess(size=(128, 192)))

    rows, columns = np.nonzero(array[0, 0, 16:112] > 127)
    found = [columns.min(), rows.min() + 16, columns.max() + 1, rows.max() + 17]
    np.testing.assert_allclose(to_network(np.array([[80, 40, 240, 120]]), geometry)[0], found, atol=0.5)


def test_boxes_outside_the_image_are_clipped_and_none_stay_none() -> None:
    geometry = Geometry(0.5, 0.5, 0, 10, 100, 40)

    assert to_image(np.array([[-5, 0, 80, 90]]), geometry).tolist() == [[0, 0, 100, 40]]
    assert to_image(np.empty((0, 4)), geometry).shape == (0, 4)
    assert to_network(np.empty((0, 4)), geometry).shape == (0, 4)


def test_an_image_of_the_network_size_is_not_resampled() -> None:
    image = noise(48, 64)

    array, geometry = preprocess(image, Preprocess(size=(48, 64)))

    np.testing.assert_array_equal(array[0], image.transpose(2, 0, 1).astype(np.float32))
    assert geometry == Geometry(1, 1, 0, 0, 64, 48)


def test_views_and_read_only_images_are_taken_as_they_are() -> None:
    image = noise(48, 64)
    mirrored = image[:, ::-1]
    mirrored.flags.writeable = False

    array, _ = preprocess(mirrored, Preprocess(size=(24, 24)))

    np.testing.assert_array_equal(array, preprocess(mirrored.copy(), Preprocess(size=(24, 24)))[0])


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3), (4, 4, 1), (1, 4, 4, 3)])
def test_anything_but_three_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="uint8 RGB, got"):
        preprocess(np.zeros(shape, np.uint8), YOLOX)


def test_float_images_are_refused_rather_than_scaled_twice() -> None:
    with pytest.raises(DataError, match="float32"):
        preprocess(np.zeros((4, 4, 3), np.float32), YOLOX)


def test_a_std_of_zero_is_an_error_of_the_recipe() -> None:
    with pytest.raises(RecipeError, match="std other than 0"):
        preprocess(noise(4, 4), Preprocess(size=(4, 4), std=(1, 0, 1)))


@pytest.mark.parametrize("key", ["scale", "mean", "std"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_arithmetic_that_is_not_finite_is_an_error_of_the_recipe(key: str, value: float) -> None:
    changed = {key: value if key == "scale" else (1.0, value, 1.0)}
    with pytest.raises(RecipeError, match="finite"):
        check_preprocess(Preprocess(size=(4, 4)).model_copy(update=changed))


@given(height=sides, width=sides, how=fits)
@settings(max_examples=60, deadline=None)
def test_masks_take_the_nearest_pixel_by_an_independent_gather(height: int, width: int, how: Preprocess) -> None:
    mask = noise(height, width)[:, :, 0] % 200
    _, geometry = preprocess(np.zeros((height, width, 3), np.uint8), how)

    placed = mask_to_network(mask, how)

    assert placed.shape == how.size
    inside = np.argwhere(placed != 255)
    image_y = (inside[:, 0] + 0.5 - geometry.offset_y) / geometry.scale_y
    image_x = (inside[:, 1] + 0.5 - geometry.offset_x) / geometry.scale_x
    # Centres that fall on the border of two pixels may go either way.
    sure = (abs(image_y - image_y.round()) > 1e-3) & (abs(image_x - image_x.round()) > 1e-3)
    picked = mask[image_y[sure].astype(int), image_x[sure].astype(int)]
    np.testing.assert_array_equal(placed[tuple(inside[sure].T)], picked)


@given(height=sides, width=sides, scale=st.integers(1, 3), anchor=st.sampled_from(["top_left", "center"]))
@settings(max_examples=60, deadline=None)
def test_a_mask_survives_the_way_to_a_larger_network_and_back(height: int, width: int, scale: int, anchor: str) -> None:
    mask = noise(height, width)[:, :, 0] % 200
    how = Preprocess(size=(height * scale, width * scale + 5), anchor=anchor)
    _, geometry = preprocess(np.zeros((height, width, 3), np.uint8), how)

    np.testing.assert_array_equal(mask_to_image(mask_to_network(mask, how), geometry, how), mask)


def test_a_mask_at_a_stride_is_cut_at_the_padding_and_enlarged() -> None:
    how = Preprocess(size=(8, 8))
    _, geometry = preprocess(np.zeros((8, 16, 3), np.uint8), how)
    at_stride_2 = np.array([[9, 9, 9, 9], [0, 1, 2, 3], [4, 5, 6, 7], [9, 9, 9, 9]], np.uint8)

    mask = mask_to_image(at_stride_2, geometry, how)

    np.testing.assert_array_equal(mask, np.kron(at_stride_2[1:3], np.ones((4, 4), np.uint8)))


def test_a_mask_of_two_bytes_a_pixel_comes_back_as_one() -> None:
    how = Preprocess(size=(8, 8))
    _, geometry = preprocess(np.zeros((8, 16, 3), np.uint8), how)
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) + 500

    mask = mask_to_image(wide, geometry, how)

    assert mask.dtype == np.uint16
    np.testing.assert_array_equal(mask - 500, mask_to_image((wide - 500).astype(np.uint8), geometry, how))


def test_masks_that_are_not_uint8_planes_are_refused() -> None:
    geometry = Geometry(1, 1, 0, 0, 4, 4)
    for bad in (np.zeros((4, 4), np.int64), np.zeros((1, 4, 4), np.uint8)):
        with pytest.raises(DataError, match="expected \\(H, W\\) uint8"):
            mask_to_image(bad, geometry, Preprocess(size=(4, 4)))
        with pytest.raises(DataError, match="expected \\(H, W\\) uint8"):
            mask_to_network(bad, Preprocess(size=(4, 4)))


def test_a_returned_mask_is_not_a_view_of_the_given_one() -> None:
    mask = np.zeros((4, 4), np.uint8)

    result = mask_to_image(mask, Geometry(1, 1, 0, 0, 4, 4), Preprocess(size=(4, 4)))
    result[:] = 1

    assert not mask.any()


def test_the_vehicle_has_its_input_within_three_milliseconds() -> None:
    image = noise(480, 640)
    taken = []
    for _ in range(60):
        start = time.perf_counter()
        preprocess(image, YOLOX)
        taken.append(time.perf_counter() - start)

    assert min(taken) < 3e-3
