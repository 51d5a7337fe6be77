"""avcompress.onnx_import.resizing: every mode of Resize gives the numbers of ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]


def scales(*values):
    return ("c", np.array(values, np.float32))


def sizes(*values):
    return ("c", np.array(values, np.int64))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(coordinates, rounding, x, check):
    opset = 19 if coordinates == "half_pixel_symmetric" else 17
    settings_ = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding, "opset": opset}

    check("Resize", x, None, scales(1, 1, 2, 2), **settings_)
    # Symmetric positions lie on ties there, up to the last bit of a float.
    check("Resize", x, None, scales(1, 1, *((0.6, 1.7) if opset < 19 else (0.75, 1.5))), **settings_)
    check("Resize", x, None, None, sizes(1, 4, 14, 5), **settings_)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_smooth(mode, coordinates, x, check):
    opset = 19 if coordinates == "half_pixel_symmetric" else 17
    settings_ = {"mode": mode, "coordinate_transformation_mode": coordinates, "opset": opset}

    check("Resize", x, None, scales(1, 1, 2, 2), **settings_)
    check("Resize", x, None, scales(1, 1, 0.6, 1.7), **settings_)
    check("Resize", x, None, None, sizes(1, 4, 14, 5), **settings_)


def test_cubic_with_another_coefficient_and_without_what_is_outside(x, check):
    check("Resize", x, None, scales(1, 1, 2, 1.5), mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1)


def test_axes_and_channels(x, check):
    check("Resize", x, None, ("c", np.array([2, 3], np.float32)), axes=[2, 3], mode="linear", opset=18)
    check("Resize", x, None, scales(1, 2, 1, 1), mode="nearest")


def test_one_and_three_dimensions(x, check):
    check("Resize", x[0], None, scales(1, 1, 2), mode="linear")
    check("Resize", x[None], None, scales(1, 1, 2, 1, 2), mode="linear", coordinate_transformation_mode="align_corners")


def test_to_one_pixel(x, check):
    for coordinates in COORDINATES[:4]:
        check("Resize", x, None, None, sizes(1, 4, 1, 1), mode="linear", coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude", [0, 1])
def test_antialias_widens_the_filter_as_the_image_shrinks(mode, exclude, x, check):
    for size in (sizes(1, 4, 3, 4), sizes(1, 4, 14, 18), sizes(1, 4, 7, 4)):
        check("Resize", x, None, None, size, mode=mode, antialias=1, exclude_outside=exclude, opset=18)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(2, 9),
    scale=st.floats(0.25, 3.5, width=32),
    mode=st.sampled_from(["nearest", "linear"]),
    coordinates=st.sampled_from(COORDINATES[:4]),
)
def test_any_scale(network, agree, size, scale, mode, coordinates):
    assume(np.floor(np.float32(size) * np.float32(scale)) >= 1)
    feeds = {"x": np.random.default_rng(0).normal(0, 1, (1, 2, size, 3)).astype(np.float32)}
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], "n", mode=mode, coordinate_transformation_mode=coordinates)

    agree(network([node], feeds, {"s": np.array([1, 1, scale, 1], np.float32)}, ["y"]), feeds)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("corners", [0, 1])
def test_grid_sample(mode, corners, x, check):
    grid = np.random.default_rng(1).uniform(-1.1, 1.1, (1, 5, 6, 2)).astype(np.float32)

    check("GridSample", x, grid, mode=mode, align_corners=corners)
    check("GridSample", x, grid, mode=mode, align_corners=corners, padding_mode="border")
