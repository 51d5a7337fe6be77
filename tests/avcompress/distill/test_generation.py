"""Statistics of a network's features, and pictures that are made from them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from avcompress.distill.generation import generate, roughness
from avcompress.distill.statistics import (
    Moments,
    Statistics,
    folded_statistics,
    moment_distance,
    recorded_statistics,
    stored_statistics,
)
from avcompress.distill.taps import Tapped
from avcompress.onnx_import import import_onnx
from avcompress.recipe import Preprocess
from avcompress.recipe_distill import Generation
from avcompress.spec import ModelError
from engines.onnx_graph import fold_batch_norms

PREPROCESS = Preprocess(size=(16, 16), channels="bgr", mean=(100.0, 110.0, 120.0), std=(50.0, 50.0, 60.0))


# --- statistics


def test_batch_normalizations_keep_them_in_torch_modules_and_in_imported_graphs(net, small_onnx):
    module = net()
    module.norm.running_mean += 3
    torch_ones, onnx_ones = stored_statistics(module), stored_statistics(import_onnx(small_onnx))

    assert torch_ones.source == onnx_ones.source == "batch normalization"
    assert torch_ones.before
    assert list(torch_ones.moments) == ["norm"]
    assert torch_ones.moments["norm"].mean.tolist() == [3.0] * 6
    assert list(onnx_ones.moments) == ["n"]
    np.testing.assert_allclose(onnx_ones.moments["n"].mean, np.linspace(-1, 1, 6), rtol=1e-6)
    np.testing.assert_allclose(onnx_ones.moments["n"].variance, np.linspace(0.5, 2, 6), rtol=1e-6)


def test_folding_keeps_them_at_the_convolution(small_onnx, images):
    folded = fold_batch_norms(small_onnx)
    statistics = folded_statistics(folded)

    assert folded_statistics(small_onnx) is None
    assert stored_statistics(import_onnx(folded)) is None
    assert list(statistics.moments) == ["n"]
    # As training left them: the convolution with it folded in has mean beta, and variance gamma squared.
    assert statistics.moments["n"].mean.tolist() == [0.0] * 6
    assert statistics.moments["n"].variance.tolist() == [1.0] * 6
    record = Tapped(import_onnx(folded), statistics.moments, "teacher", statistics.before)(images())
    assert record.taps["n"].shape[1] == 6


def test_without_any_they_are_recorded_from_images(net, small_onnx, images):
    module, batches = nn.Sequential(nn.Conv2d(3, 2, 1)), [images(3, seed) for seed in range(4)]
    values = module(torch.cat(batches)).detach().double().numpy()

    found = recorded_statistics(module, batches)

    assert stored_statistics(module) is None
    assert found.source == "recorded"
    np.testing.assert_allclose(found.moments["0"].mean, values.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(found.moments["0"].variance, values.var((0, 2, 3)), rtol=1e-5)
    assert list(recorded_statistics(import_onnx(small_onnx), batches).moments) == ["a", "b", "y"]
    with pytest.raises(ModelError, match="expected convolutions and images"):
        recorded_statistics(module, [])


def test_the_distance_of_moments_by_hand():
    # Mean 2 and standard deviation 1, against 0 and 2: one of its own units away, and half as wide.
    x = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)

    assert moment_distance(x, Moments(torch.zeros(1), torch.full((1,), 4.0))).item() == pytest.approx(1 + 0.25)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_the_distance_does_not_see_a_layers_scale(seed, scale, shift):
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    known = Moments(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([1.0, 2.0, 0.5]))
    moved = Moments(scale * known.mean + shift, scale**2 * known.variance)

    assert moment_distance(scale * x + shift, moved).item() == pytest.approx(moment_distance(x, known).item(), rel=1e-3)


# --- pictures


def distance(module, statistics: Statistics, pictures) -> float:
    """Of RGB pictures, as the network with PREPROCESS sees them."""
    bgr = torch.from_numpy(np.stack([p.image[..., ::-1] for p in pictures]).copy()).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    with torch.no_grad():
        record = Tapped(module, statistics.moments, "teacher", statistics.before)((bgr - mean) / std)
    return float(sum(moment_distance(record.taps[name], m) for name, m in statistics.moments.items()))


def test_pictures_come_to_have_the_statistics_that_the_network_knows(net):
    module = net().train()
    rng = np.random.default_rng(0)
    for _ in range(30):  # what it knows: flat, dark pictures with a bright channel
        colours = rng.normal((30, 60, 200), 10, (8, 1, 1, 3)) + rng.normal(0, 5, (8, 16, 16, 3))
        inputs = (colours[..., ::-1] - PREPROCESS.mean) / PREPROCESS.std
        module(torch.from_numpy(inputs.copy()).permute(0, 3, 1, 2).float())
    statistics = stored_statistics(module)
    begun, ended = (
        generate(module, statistics, Generation(count=10, batch_size=6, steps=steps, learning_rate=0.3), PREPROCESS)
        for steps in (1, 60)
    )

    assert distance(module.eval(), statistics, ended) < 0.1 * distance(module, statistics, begun)
    assert [p.name for p in ended[:2]] == ["generated-00000", "generated-00001"]
    assert len(ended) == 10
    assert ended[0].image.shape == (16, 16, 3)
    assert ended[0].image.dtype == np.uint8
    assert ended[0].boxes is ended[0].mask is None


def test_the_network_that_pictures_are_made_from_stays_as_it_is(net, images):
    module = net().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}

    first, again = (
        generate(module, stored_statistics(module), Generation(count=2, steps=2), PREPROCESS) for _ in range(2)
    )

    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))


def test_a_network_that_gives_no_numbers_is_told(net):
    module = net()
    module.first.weight.data[:] = float("nan")

    with pytest.raises(ModelError, match="generate: expected a finite loss, got nan at step 0"):
        generate(module, stored_statistics(module), Generation(count=1, steps=2), PREPROCESS)


def test_roughness_by_hand():
    assert roughness(torch.tensor([[[[0.0, 1.0], [4.0, 1.0]]]])).item() == (4 + 0) / 2 + (1 + 3) / 2
