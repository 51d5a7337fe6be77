"""avcompress.lowrank.evbmf: the planted rank, the paper's equations, and an independent port's figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.lowrank import evbmf as module
from avcompress.lowrank.evbmf import evbmf


def planted(rows, columns, rank, noise, seed):
    """Signal of a rank, and Gaussian noise of a standard deviation."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    return signal + noise * rng.normal(size=(rows, columns))


@pytest.mark.parametrize(
    ("case", "rank", "noise", "largest"),
    [
        # rows, columns, rank, noise, seed; figures of CasvandenBogaard's port of Nakajima's own code, VBMF.py
        ((20, 30, 3, 1.0, 0), 3, 1.001625, 30.93988),
        ((64, 64, 5, 0.5, 1), 5, 0.257516, 79.38065),
        ((64, 576, 8, 0.3, 2), 8, 0.089940, 242.55715),
        ((10, 400, 4, 2.0, 3), 3, 4.404016, 109.89741),
        ((50, 60, 12, 1.0, 5), 12, 1.093449, 81.19063),
    ],
)
def test_rank_noise_and_values_are_those_of_an_independent_port(case, rank, noise, largest):
    found = evbmf(planted(*case))

    assert found.rank == rank
    assert found.noise == pytest.approx(noise, rel=1e-4)
    assert np.allclose(found.values[:1], largest, rtol=1e-5)


@settings(max_examples=20)
@given(rank=st.integers(1, 8), columns=st.integers(60, 200), seed=st.integers(0, 99))
def test_a_rank_well_above_the_noise_is_recovered(rank, columns, seed):
    found = evbmf(planted(60, columns, rank, 0.3, seed))

    assert found.rank == rank
    assert found.noise == pytest.approx(0.09, rel=0.1)


def test_pure_noise_has_no_rank():
    assert evbmf(planted(80, 100, 0, 1.0, 0)).rank == 0


def test_a_matrix_and_its_transpose_have_the_same_rank():
    matrix = planted(30, 70, 5, 0.5, 3)

    assert evbmf(matrix).rank == evbmf(matrix.T).rank == 5


def test_the_scale_of_a_matrix_changes_nothing_but_the_scale():
    matrix = planted(30, 70, 5, 0.5, 3)
    small = evbmf(matrix * 1e-4)

    assert small.rank == 5
    assert small.noise == pytest.approx(evbmf(matrix).noise * 1e-8, rel=1e-3)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_the_threshold_is_where_the_free_energy_of_a_component_changes_its_sign(alpha):
    # Theorem 2: the zero of phi(tau) + phi(tau / alpha), phi(z) = log(z + 1) / z - 1/2.
    low, high = 1e-6, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        value = sum(np.log(z + 1) / z - 0.5 for z in (middle, middle / alpha))
        low, high = (middle, high) if value > 0 else (low, middle)
    exact = (1 + low) * (1 + alpha / low)

    assert module._threshold(alpha) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1)])
def test_the_smallest_matrices_are_no_exception(shape):
    assert evbmf(np.ones(shape)).rank in {0, 1}


def test_a_matrix_of_zeros_has_no_rank():
    assert evbmf(np.zeros((4, 5))).rank == 0
