"""avcompress.lowrank.moments: mean and covariance of what a layer reads, on images to learn from and on others."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper

from avcompress.lowrank import moments as module
from avcompress.lowrank.layers import find_layers
from avcompress.lowrank.moments import measure
from avcompress.spec import DataError


def weight_of(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def images(n, *shape, seed=3):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, *shape)).astype(np.float32) + 1} for _ in range(n)]


def patches(image, kernel):
    """(positions, C * kernel) of one image without padding, in the order of a weight's axes."""
    windows = sliding_window_view(image[0], kernel, axis=(1, 2))  # (C, H', W', kh, kw)
    return windows.transpose(1, 2, 0, 3, 4).reshape(-1, image.shape[1] * kernel[0] * kernel[1])


def test_mean_and_covariance_are_those_of_all_patches(conv_net):
    model, batches = conv_net(weight_of(4, 2, 3, 2), size=(6, 5)), images(6, 2, 6, 5)
    batches[0]["x"][:] = 0.7  # of which a quarter is held out: any, as all its patches are alike
    layers, _ = find_layers(model)

    seen = measure(model, layers, batches)["conv"]

    for found, numbers in ((seen.learned, (0, 2, 3, 4)), (seen.held_out, (0, 1, 5))):
        rows = np.concatenate([patches(batches[number]["x"], (3, 2)) for number in numbers])
        assert np.allclose(found.mean, rows.mean(0), atol=1e-5)
        assert np.allclose(found.spread, np.cov(rows.T, bias=True), atol=1e-4)


def test_of_one_image_three_quarters_are_learned_from(conv_net):
    model, batches = conv_net(weight_of(4, 2, 1, 1), size=(8, 8)), images(1, 2, 8, 8)
    layers, _ = find_layers(model)

    seen = measure(model, layers, batches)["conv"]

    every = batches[0]["x"].reshape(2, -1).mean(1)
    assert np.allclose((48 * seen.learned.mean + 16 * seen.held_out.mean) / 64, every, atol=1e-5)


def test_a_layer_without_a_bias_gets_second_moments(network):
    model = network([helper.make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": weight_of(3, 4)}, (1, 50, 3))
    layers, _ = find_layers(model)
    batches = images(1, 50, 3)

    seen = measure(model, layers, batches)["m"]

    rows = batches[0]["x"][0]
    assert np.array_equal(seen.learned.mean, np.zeros(3))
    whole = (38 * seen.learned.spread + 12 * seen.held_out.spread) / 50
    assert np.allclose(whole, rows.T @ rows / 50, atol=1e-4)


def test_layers_are_measured_in_parts_that_fit_the_budget(small_net, small_batches, monkeypatch):
    layers, _ = find_layers(small_net)
    together = measure(small_net, layers, small_batches)
    monkeypatch.setattr(module, "BUDGET_BYTES", 1)

    apart = measure(small_net, layers, small_batches)

    assert set(apart) == set(together) == {"a", "p", "q"}
    assert all(np.array_equal(apart[name].learned.spread, together[name].learned.spread) for name in apart)


def test_a_layer_that_is_too_wide_is_left_out(small_net, small_batches, monkeypatch):
    monkeypatch.setattr(module, "WIDEST", 100)

    assert set(measure(small_net, find_layers(small_net)[0], small_batches)) == {"a", "p"}


def test_values_that_are_not_finite_are_refused_by_image(small_net):
    bad = [{"x": np.full((1, 3, 16, 16), np.inf, np.float32)}]

    with pytest.raises(DataError, match=r"'x', calibration image 1: expected finite values, got NaN or infinity"):
        measure(small_net, find_layers(small_net)[0], bad)


def test_no_image_is_an_error(small_net):
    with pytest.raises(DataError, match="expected at least one image"):
        measure(small_net, find_layers(small_net)[0], [])
