"""avcompress.lowrank.fitting: factors by the error of a layer's output."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.lowrank.fitting import Aim, fitted
from avcompress.lowrank.forms import FORMS, composed, highest

METHODS = tuple(FORMS)


def weight_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def spread_of(width, seed=0):
    """A covariance of values that go together, as those of pictures do."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * np.geomspace(1, 0.03, width)
    return (mixing @ mixing.T / width).astype(np.float32)


def ranks_of(method, rank):
    return (rank, rank) if method == "tucker2" else (rank,)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_channels_that_carry_something_count(method):
    # Only the first of two input channels ever moves, so that rank 1 of a separable kernel suits it exactly.
    weight = weight_of((3, 2, 3, 3))
    weight[:, 0] = np.einsum("m,i,j->mij", [1, 2, -1], [1, 2, 1], [-1, 0, 1])
    spread = np.zeros((18, 18), np.float32)
    spread[:9, :9] = spread_of(9)

    factors = fitted(Aim(weight, spread), method, ranks_of(method, 1))

    assert np.allclose(composed(method, factors)[:, 0], weight[:, 0], atol=1e-2)


@settings(max_examples=12)
@given(method=st.sampled_from(METHODS), rank=st.integers(1, 4), seed=st.integers(0, 99))
def test_fitted_to_the_output_the_output_is_nearer_than_fitted_to_the_weight(method, rank, seed):
    weight = weight_of((6, 5, 3, 2), seed)
    aim = Aim(weight, spread_of(30, seed))

    by_output = aim.error(composed(method, fitted(aim, method, ranks_of(method, rank))))
    by_weight = aim.error(composed(method, fitted(Aim(weight), method, ranks_of(method, rank))))

    assert by_output <= by_weight * 1.02


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_svd_is_numpys_in_the_space_where_inputs_are_white(rank):
    weight, spread = weight_of((7, 4, 1, 2)), spread_of(8)
    values = np.linalg.svd(weight.reshape(7, 8) @ np.linalg.cholesky(spread.astype(float)), compute_uv=False)

    aim = Aim(weight, spread)
    lost = aim.error(composed("svd", fitted(aim, "svd", (rank,))))

    assert lost == pytest.approx(np.square(values[rank:]).sum() / np.square(values).sum(), abs=1e-5)


@pytest.mark.parametrize("method", ["svd", "spatial_svd", "tucker2"])
def test_at_the_highest_rank_the_weight_is_what_it_was(method):
    weight = weight_of((5, 4, 3, 3))
    aim = Aim(weight, spread_of(36))

    factors = fitted(aim, method, highest(method, weight.shape))

    assert aim.error(composed(method, factors)) < 1e-6


def test_the_error_is_the_share_of_the_outputs_variance():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 6)) @ rng.standard_normal((6, 6))
    weight, other = weight_of((3, 6, 1, 1)), weight_of((3, 6, 1, 1), 1)
    output, lost = rows @ weight.reshape(3, 6).T, rows @ (weight - other).reshape(3, 6).T

    aim = Aim(weight, np.cov(rows.T, bias=True).astype(np.float32))

    assert aim.error(other) == pytest.approx(lost.var(0).sum() / output.var(0).sum(), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_all_factors_have_components_of_one_size(method):
    factors = fitted(Aim(weight_of((6, 5, 3, 3))), method, ranks_of(method, 3))
    axes = [factor.axes for factor in FORMS[method]]
    letter = axes[0][0]

    norms = [
        np.linalg.norm(np.moveaxis(tensor, letters.index(letter), 0).reshape(3, -1), axis=1)
        for tensor, letters in zip(factors, axes, strict=True)
        if letter in letters
    ]

    assert len(norms) > 1
    assert all(np.allclose(norm, norms[0], rtol=1e-3) for norm in norms)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_whose_input_never_moves_has_finite_factors(method):
    factors = fitted(Aim(weight_of((4, 3, 3, 3)), np.zeros((27, 27), np.float32)), method, ranks_of(method, 2))

    assert all(np.isfinite(factor).all() for factor in factors)
