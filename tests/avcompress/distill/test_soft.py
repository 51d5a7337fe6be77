"""Soft labels: by hand, against torch's own distributions, and in the limit of a high temperature."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, kl_divergence

from avcompress.distill.soft import bernoulli_divergence, logit, mixed, sigmoid_divergence, softmax_divergence

SEEDS = st.integers(0, 2**16)


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_two_classes_by_hand():
    # Teacher 3/4 and 1/4, student 1/2 and 1/2; twice the logits at temperature 2 are the same distributions.
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)

    assert softmax_divergence(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert softmax_divergence(student, 2 * teacher, 2.0).item() == pytest.approx(4 * expected, abs=1e-6)


def test_one_class_that_is_there_or_not_by_hand():
    teacher, student = torch.tensor([[math.log(3.0)]]), torch.zeros(1, 1)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)

    assert sigmoid_divergence(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, temperature=st.floats(0.5, 10))
def test_divergences_agree_with_torchs_distributions_at_every_pixel(seed, temperature):
    # In float32, torch's own is infinite where a score is rounded to 1.
    student, teacher = (logits(s, 2, 5, 3, 4).double() for s in (seed, seed + 1))

    one = [Categorical(logits=x.movedim(1, -1) / temperature) for x in (teacher, student)]
    each = [Bernoulli(logits=x / temperature) for x in (teacher, student)]

    square = temperature**2
    assert softmax_divergence(student, teacher, temperature).item() == pytest.approx(
        square * kl_divergence(*one).mean().item(), rel=1e-4, abs=1e-6
    )
    assert sigmoid_divergence(student, teacher, temperature).item() == pytest.approx(
        square * kl_divergence(*each).sum(1).mean().item(), rel=1e-4, abs=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_divergence_is_nothing_for_the_teacher_itself_and_more_for_every_other(seed):
    student, teacher = logits(seed, 2, 5), logits(seed + 1, 2, 5)

    for divergence in (softmax_divergence, sigmoid_divergence):
        assert divergence(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-5)
        assert divergence(student, teacher, 3.0).item() > 0


def test_at_a_high_temperature_soft_labels_compare_logits():
    """Source: Hinton et al., arXiv:1503.02531, section 2.1, eq. 4."""
    student, teacher = (logits(seed, 3, 6).double() for seed in (1, 2))
    apart = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))

    found = softmax_divergence(student, teacher, 1e4)

    assert found.item() == pytest.approx((apart.square().sum(1) / (2 * 6)).mean().item(), rel=1e-3)


def test_a_score_of_nearly_one_has_a_gradient():
    student = torch.tensor([30.0, -30.0], requires_grad=True)

    bernoulli_divergence(student, torch.tensor([0.0, 0.0])).sum().backward()

    assert student.grad is not None
    assert student.grad.tolist() == pytest.approx([0.5, -0.5])


def test_labels_and_teacher_share_the_loss():
    assert mixed(torch.tensor(10.0), torch.tensor(2.0), 0.25).item() == 4.0


def test_a_probability_of_one_becomes_a_finite_logit():
    assert logit(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([-13.8, 0, 13.8], abs=0.1)


@pytest.mark.parametrize("axis", [1, 2])
def test_gradients_are_those_of_finite_differences(axis):
    student, teacher = (logits(seed, 2, 3, 4).double() for seed in (1, 2))
    student.requires_grad_()

    assert torch.autograd.gradcheck(lambda x: softmax_divergence(x, teacher, 3.0, axis), student)
    assert torch.autograd.gradcheck(lambda x: bernoulli_divergence(x, teacher), student)
