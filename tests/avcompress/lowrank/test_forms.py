"""avcompress.lowrank.forms: what factors stand for, and what they cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.lowrank.forms import (
    FORMS,
    Extent,
    check_ranks,
    composed,
    factor_macs,
    factor_shapes,
    highest,
    layer_macs,
    projected,
    suitable,
)
from avcompress.spec import RecipeError

METHODS = tuple(FORMS)


def random_factors(method, shape, ranks, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(sizes) for sizes in factor_shapes(method, shape, ranks))


def test_a_column_times_a_row_is_the_kernel_they_stand_for():
    first = np.array([[[1.0, 2.0, 1.0]]])  # r=1, c=1, three rows: smooths
    last = np.array([[[-1.0, 0.0, 1.0]]])  # m=1, r=1, three columns: differences

    sobel = composed("spatial_svd", (first, last))

    assert np.array_equal(sobel, [[[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]]])


def test_a_core_between_two_mixtures_of_channels_is_a_kernel_of_their_outer_product():
    weight = composed("tucker2", (np.array([[1.0, 2.0]]), np.array([[[[3.0]]]]), np.array([[1.0], [-1.0]])))

    assert np.array_equal(weight[:, :, 0, 0], [[3, 6], [-3, -6]])


def test_four_vectors_make_one_component_of_cp():
    vectors = (np.array([[1.0, 2.0]]), np.array([[1.0, 10.0]]), np.array([[1.0, 0.0]]), np.array([[3.0]]))

    assert np.array_equal(composed("cp", vectors)[0, 1], [[6, 0], [60, 0]])


@pytest.mark.parametrize("method", METHODS)
def test_projection_is_the_adjoint_of_composition(method):
    shape = (3, 4, 3, 2)
    factors = random_factors(method, shape, (2,) * len(highest(method, shape)))
    weight = np.random.default_rng(1).standard_normal(shape)

    inner = np.vdot(composed(method, factors), weight)

    for index, factor in enumerate(factors):
        assert np.vdot(projected(method, factors, index, weight), factor) == pytest.approx(inner)


def test_the_cost_of_a_spatial_pair_counts_the_rows_after_their_stride():
    # 8x8 -> 4x4, stride 2: kx1 makes 4x8 positions of 2 channels, 1xk 4x4 positions of 5.
    shape, extent = (5, 3, 3, 3), Extent((8, 8), (4, 4))

    assert factor_macs("spatial_svd", shape, (2,), extent) == 4 * 8 * 2 * 3 * 3 + 4 * 4 * 5 * 2 * 3
    assert layer_macs(shape, extent) == 4 * 4 * 5 * 3 * 9


def test_depthwise_factors_are_those_with_one_axis_of_channels():
    found = [factor.name for factors in FORMS.values() for factor in factors if factor.depthwise]

    assert found == ["core/rows", "core/columns"]


def test_a_kernel_of_one_row_has_no_rows_to_split_off():
    assert suitable((8, 8, 1, 1)) == ("svd",)
    assert suitable((8, 8, 1, 3)) == ("svd", "tucker2")
    assert set(suitable((8, 8, 3, 3))) == set(METHODS)


@given(shape=st.tuples(*[st.integers(1, 6)] * 2, *[st.integers(1, 3)] * 2))
def test_the_highest_rank_of_a_matrix_is_that_of_its_unfolding(shape):
    m, c, i, j = shape
    weight = np.random.default_rng(0).standard_normal(shape)

    assert highest("svd", shape) == (np.linalg.matrix_rank(weight.reshape(m, -1)),)
    spatial = weight.transpose(0, 3, 1, 2).reshape(m * j, c * i)
    assert highest("spatial_svd", shape) == (np.linalg.matrix_rank(spatial),)


@pytest.mark.parametrize(("method", "ranks"), [("svd", (9,)), ("svd", (0,)), ("tucker2", (4, 9)), ("tucker2", (4,))])
def test_a_rank_that_the_layer_does_not_allow_is_refused_by_name(method, ranks):
    with pytest.raises(
        RecipeError, match=rf"layer 'a', {method} of 8x4x3x3: expected a rank of 1 to .*; give a smaller"
    ):
        check_ranks("layer 'a'", method, (8, 4, 3, 3), ranks)
