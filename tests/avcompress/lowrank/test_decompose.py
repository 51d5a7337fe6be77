"""avcompress.lowrank.decompose: exact where the weight has the rank, else as near as NumPy's and tensorly's."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.lowrank.decompose import decomposed
from avcompress.lowrank.forms import FORMS, composed, highest
from avcompress.spec import RecipeError

METHODS = tuple(FORMS)
TWO = {"tucker2"}


def weight_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ranks_of(method, rank):
    return (rank, rank) if method in TWO else (rank,)


def error(weight, approximation):
    return float(np.square(weight - approximation).sum() / np.square(weight).sum())


@pytest.mark.parametrize("method", METHODS)
def test_a_kernel_of_rank_one_is_found_again(method):
    vectors = [weight_of((n,), seed) for seed, n in enumerate((5, 4, 3, 3))]
    kernel = np.einsum("m,c,i,j->mcij", *vectors)

    factors = decomposed(method, kernel, ranks_of(method, 1))

    assert np.allclose(composed(method, factors), kernel, atol=1e-5)


@pytest.mark.parametrize("method", ["svd", "spatial_svd", "tucker2"])
def test_at_the_highest_rank_nothing_is_lost(method):
    weight = weight_of((6, 4, 3, 2))

    assert np.allclose(composed(method, decomposed(method, weight, highest(method, weight.shape))), weight, atol=1e-4)


def test_cp_at_the_highest_rank_loses_next_to_nothing():
    weight = weight_of((4, 3, 2, 2))

    assert error(weight, composed("cp", decomposed("cp", weight, highest("cp", weight.shape)))) < 1e-3


@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(4, 9), st.integers(4, 9), st.integers(1, 3), st.integers(1, 3)),
    method=st.sampled_from(["svd", "spatial_svd", "tucker2"]),
    seed=st.integers(0, 99),
)
def test_a_higher_rank_never_loses_more(shape, method, seed):
    weight = weight_of(shape, seed)
    most = min(highest(method, shape))

    errors = [
        error(weight, composed(method, decomposed(method, weight, ranks_of(method, r)))) for r in range(1, most + 1)
    ]

    assert all(after <= before + 1e-3 for before, after in pairwise(errors))


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_svd_loses_the_squares_of_the_other_singular_values(rank):
    weight = weight_of((6, 5, 1, 1))
    values = np.linalg.svd(weight[:, :, 0, 0], compute_uv=False)

    lost = error(weight, composed("svd", decomposed("svd", weight, (rank,))))

    assert lost == pytest.approx(np.square(values[rank:]).sum() / np.square(values).sum(), abs=1e-6)


@pytest.mark.parametrize("ranks", [(2, 3), (5, 4), (6, 9)])
def test_tucker_is_as_near_as_tensorlys(ranks):
    tensorly = pytest.importorskip("tensorly.decomposition")
    weight = weight_of((12, 8, 3, 3))

    ours = error(weight, composed("tucker2", decomposed("tucker2", weight, ranks)))

    (core, (last, first)), _ = tensorly.partial_tucker(weight, rank=ranks[::-1], modes=[0, 1], n_iter_max=50, tol=1e-6)
    theirs = error(weight, np.einsum("tsij,mt,cs->mcij", core, last, first))
    assert ours == pytest.approx(theirs, rel=2e-3)


@pytest.mark.parametrize("rank", [2, 8, 16])
def test_cp_is_as_near_as_tensorlys(rank):
    tensorly = pytest.importorskip("tensorly.decomposition")
    weight = weight_of((12, 8, 3, 3))

    ours = error(weight, composed("cp", decomposed("cp", weight, (rank,))))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = tensorly.parafac(weight.astype(float), rank, n_iter_max=30, random_state=0)
    assert ours <= error(weight, found.to_tensor()) * 1.1


@pytest.mark.parametrize("method", METHODS)
def test_the_same_weight_gives_the_same_factors(method):
    weight = weight_of((6, 5, 3, 3))

    once, again = (decomposed(method, weight, ranks_of(method, 4)) for _ in range(2))

    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))


def test_a_rank_larger_than_the_weight_allows_is_refused():
    with pytest.raises(RecipeError, match=r"svd of 3x2x1x1: expected a rank of 1 to 2, got 3"):
        decomposed("svd", weight_of((3, 2, 1, 1)), (3,))


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_of_zeros_has_factors_too(method):
    zeros = np.zeros((4, 4, 3, 3), np.float32)

    assert np.allclose(composed(method, decomposed(method, zeros, ranks_of(method, 2))), 0)
