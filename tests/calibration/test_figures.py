"""What an input and outputs look like, in a few figures."""

import numpy as np
import pytest

from avcompress.recipe import Preprocess
from calibration.figures import input_figures, output_figures
from calibration.preprocess import preprocess

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def figures(image, **settings):
    made = Preprocess(**{"size": (32, 64), **settings})
    return input_figures(*preprocess(image, made), made)


def test_figures_are_in_levels_of_the_image_by_hand():
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16] = (200, 100, 0)
    image[16:] = (100, 100, 40)
    found = figures(image)
    assert (found["red.mean"], found["red.spread"], found["red.low"], found["red.high"]) == (150, 50, 100, 200)
    assert (found["green.mean"], found["green.spread"]) == (100, 0)
    assert found["tint"] == 150 - 20
    assert found["brightness"] == pytest.approx(0.299 * 150 + 0.587 * 100 + 0.114 * 20)


@pytest.mark.parametrize(
    "settings",
    [{}, {"channels": "bgr"}, {"scale": 1 / 255}, IMAGENET, {**IMAGENET, "channels": "bgr"}, {"fit": "stretch"}],
)
def test_they_are_the_same_whatever_the_arithmetic_and_the_order_of_channels(settings):
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    image[:, :, 0] //= 2
    found, plain = figures(image, **settings), figures(image)
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        assert found[name] == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize("shape", [(32, 64), (64, 64), (20, 90), (7, 3), (1, 1), (480, 640)])
@pytest.mark.parametrize("anchor", ["top_left", "center"])
def test_padding_is_left_out(shape, anchor):
    found = figures(np.full((*shape, 3), 10, np.uint8), anchor=anchor)
    assert found["red.low"] == found["red.high"] == found["brightness"] == pytest.approx(10)


def test_outputs_are_sampled_over_all_their_columns():
    value = np.zeros((1, 5000, 85), np.float32)
    value[:, :, 84] = 7
    found = output_figures({"boxes": value})
    assert found["boxes.low"] == 0
    assert found["boxes.high"] == 7
    assert found["boxes.mean"] == pytest.approx(7 / 85, rel=0.05)


def test_a_small_output_is_taken_whole_and_one_of_integers_not_at_all():
    found = output_figures({"a": np.float32([[1, 2], [3, -6]]), "b": np.int64([3]), "c": np.zeros((1, 0), np.float32)})
    assert found == {"a.low": -6, "a.high": 3, "a.mean": 0}
