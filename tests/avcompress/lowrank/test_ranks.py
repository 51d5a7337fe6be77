"""avcompress.lowrank.ranks: multiples of the target's alignment that save multiply-accumulates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.lowrank.forms import FORMS, Extent, factor_macs, highest, layer_macs
from avcompress.lowrank.ranks import evbmf_ranks, path

METHODS = tuple(FORMS)


def weight_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_1x1_convolution_of_64_by_64_gains_below_rank_32():
    # (64 + 64) r < 64 * 64.
    assert path("svd", weight_of((64, 64, 1, 1)), Extent((4, 4), (4, 4)), 8) == ((8,), (16,), (24,))


def test_a_larger_alignment_leaves_fewer_ranks():
    weight, extent = weight_of((64, 64, 3, 3)), Extent((4, 4), (4, 4))

    assert path("spatial_svd", weight, extent, 32) == ((32,), (64,))
    assert path("svd", weight_of((12, 12, 1, 1)), extent, 16) == ()


@settings(max_examples=25)
@given(
    method=st.sampled_from(METHODS),
    shape=st.tuples(st.integers(4, 40), st.integers(4, 40), st.just(3), st.just(3)),
    stride=st.integers(1, 2),
    align=st.sampled_from([1, 4, 8]),
)
def test_every_step_is_allowed_aligned_larger_than_the_last_and_saves(method, shape, stride, align):
    extent = Extent((8, 8), (8 // stride, 8 // stride))

    steps = path(method, weight_of(shape), extent, align)

    assert all(rank % align == 0 for ranks in steps for rank in ranks)
    assert all(rank <= limit for ranks in steps for rank, limit in zip(ranks, highest(method, shape), strict=True))
    assert all(factor_macs(method, shape, ranks, extent) < layer_macs(shape, extent) for ranks in steps)
    assert list(steps) == sorted(set(steps), key=lambda ranks: factor_macs(method, shape, ranks, extent))


@pytest.mark.parametrize(("method", "ranks"), [("svd", (8,)), ("tucker2", (8, 8)), ("cp", (8,))])
def test_evbmf_finds_the_rank_under_noise_and_rounds_it_up(method, ranks):
    mixing = weight_of((32, 5)), weight_of((5, 24), 1)
    core = np.einsum("mr,rc,ij->mcij", *mixing, weight_of((3, 3), 2)) + 0.1 * weight_of((32, 24, 3, 3), 3)

    assert evbmf_ranks(method, core.astype(np.float32), 8) == ranks
    assert evbmf_ranks(method, core.astype(np.float32), 1) == tuple(5 for _ in ranks)


def test_evbmf_of_a_spatial_pair_looks_at_columns_against_rows():
    kernel = np.einsum("mrj,rci->mcij", weight_of((32, 4, 3)), weight_of((4, 24, 3), 1)) + 0.05 * weight_of(
        (32, 24, 3, 3), 2
    )

    assert evbmf_ranks("spatial_svd", kernel.astype(np.float32), 1) == (4,)


def test_where_all_is_noise_the_smallest_rank_remains():
    assert evbmf_ranks("svd", weight_of((64, 64, 1, 1)), 8) == (8,)
