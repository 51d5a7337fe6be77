"""avcompress.quant.learning.rounding: the rectified sigmoid, its regularizer, and their derivatives."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avcompress.quant.learning import rounding


def test_the_rectified_sigmoid_has_the_papers_values():
    v = torch.tensor([-10.0, 0.0, 10.0, math.log(3)])

    assert rounding.rectified_sigmoid(v).tolist() == pytest.approx([0, 0.5, 1, 0.75 * 1.2 - 0.1])


@given(share=st.floats(0, 0.999, allow_subnormal=False))
def test_unrectified_is_its_inverse(share):
    assert rounding.rectified_sigmoid(rounding.unrectified(torch.tensor(share))).item() == pytest.approx(
        share, abs=1e-6
    )


@given(v=st.floats(-4, 4, allow_subnormal=False), beta=st.floats(2, 20))
def test_the_written_slopes_are_those_of_autograd(v, beta):
    variable = torch.tensor(v, requires_grad=True)
    rounding.rectified_sigmoid(variable).backward()
    share = rounding.rectified_sigmoid(variable).detach().requires_grad_(True)
    rounding.indecision(share, beta).backward()

    assert rounding.sigmoid_slope(variable.detach()).item() == pytest.approx(variable.grad.item(), abs=1e-6)
    assert rounding.indecision_slope(share.detach(), beta).item() == pytest.approx(
        share.grad.item(), rel=1e-4, abs=1e-6
    )


def test_only_halves_are_wholly_undecided():
    assert rounding.indecision(torch.tensor([0.0, 1.0, 0.5]), 2.0).item() == pytest.approx(1.0)
    assert rounding.undecided(torch.tensor([0.0, 1.0, 0.5, 0.995])) == 0.25


def test_the_exponent_falls_from_20_to_2_after_a_warm_up():
    betas = [rounding.beta_at(step, 100) for step in range(100)]

    assert betas[:20] == [None] * 20
    assert betas[20] == 20
    assert betas[60] == pytest.approx(11)
    assert betas[20:] == sorted(betas[20:], reverse=True)
    assert 2 < betas[99] < 2.1


@given(steps=st.floats(-127, 126.99, allow_subnormal=False))
def test_rounding_starts_at_the_weight_and_ends_beside_it(steps):
    soft = rounding.start(torch.tensor([steps]), torch.tensor(-128.0), torch.tensor(127.0))

    assert soft.integers(rounding.rectified_sigmoid(soft.v)).item() == pytest.approx(steps, abs=1e-4)
    assert soft.hard().item() in (math.floor(steps), math.floor(steps) + 1)
    assert abs(soft.hard().item() - steps) <= 0.5 + 1e-4


def test_integers_stay_inside_their_limits():
    soft = rounding.start(torch.tensor([7.6, -9.2]), torch.tensor(-8.0), torch.tensor(7.0))

    assert soft.hard().tolist() == [7, -8]


def test_rounding_can_start_half_way_to_integers():
    """0.2 towards 1: the share is 0.6, and up is what it stands for; towards 0 it is 0.1."""
    soft = rounding.start(torch.tensor([3.2, 3.2]), torch.tensor(-8.0), torch.tensor(7.0), torch.tensor([4.0, 3.0]))

    assert rounding.rectified_sigmoid(soft.v).tolist() == pytest.approx([0.6, 0.1], abs=1e-5)
    assert soft.hard().tolist() == [4, 3]
