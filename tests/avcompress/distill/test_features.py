"""Losses between feature maps: by hand, as properties, and against the formula written differently."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F  # noqa: N812

from avcompress.distill.features import (
    attention_map,
    attention_transfer,
    channel_wise,
    masked_generation,
    mimicry,
    random_keep,
)

SEEDS = st.integers(0, 2**16)


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 4, 5), generator=torch.Generator().manual_seed(seed))


def test_mimicry_by_hand():
    assert mimicry(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[4.0, 2.0]]]), False).item() == 4.5


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_standardized_features_are_compared_by_correlation_whatever_their_scale(seed, scale, shift):
    student, teacher = maps(seed), maps(seed + 1)
    correlations = [
        np.corrcoef(student[:, c].flatten().numpy(), teacher[:, c].flatten().numpy())[0, 1] for c in range(3)
    ]

    found = mimicry(scale * student + shift, teacher, True).item()

    assert found == pytest.approx(2 * (1 - np.mean(correlations)), abs=1e-3)


def test_attention_by_hand():
    # Channels (3, 0) and (4, 0) on two pixels: all the energy is on the first; the other network has it in equal parts.
    student = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])
    teacher = torch.tensor([[[[1.0, -1.0]]]])

    assert attention_map(student).tolist() == [[1.0, 0.0]]
    assert attention_map(teacher).tolist() == [pytest.approx([math.sqrt(0.5)] * 2)]
    assert attention_transfer(student, teacher).item() == pytest.approx(2 - math.sqrt(2), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, gain=st.floats(0.1, 10))
def test_attention_is_the_cosine_of_mean_squares_and_does_not_see_scale_or_the_number_of_channels(seed, gain):
    student, teacher = maps(seed, 2, 3, 4, 5), maps(seed + 1, 2, 7, 4, 5)
    flat = [x.pow(2).mean(1).view(2, -1) for x in (student, teacher)]  # as the authors' code has it

    found = attention_transfer(gain * student, torch.cat((teacher, teacher), 1)).item()

    assert found == pytest.approx(2 * (1 - F.cosine_similarity(*flat).mean().item()), abs=1e-4)
    assert 0 <= found <= 2


def test_channel_wise_by_hand():
    # One channel, two pixels: the teacher has 3/4 of it on the first, the student half.
    teacher = torch.tensor([[[[math.log(3.0), 0.0]]]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)

    assert channel_wise(torch.zeros(1, 1, 1, 2), teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert channel_wise(torch.zeros(1, 1, 1, 2), 4 * teacher, 4.0).item() == pytest.approx(16 * expected, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, temperature=st.floats(0.5, 8))
def test_channel_wise_agrees_with_torchs_distributions_over_pixels(seed, temperature):
    student, teacher = maps(seed), maps(seed + 1)
    pixels = [Categorical(logits=x.flatten(2) / temperature) for x in (teacher, student)]

    found = channel_wise(student, teacher, temperature).item()

    assert found == pytest.approx(temperature**2 * kl_divergence(*pixels).mean().item(), rel=1e-4, abs=1e-6)
    assert channel_wise(student + 3, student, temperature).item() == pytest.approx(0, abs=1e-5)


def test_masked_generation_by_hand():
    student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 4.0]]]])

    found = masked_generation(student, teacher, torch.tensor([[[[1.0, 0.0]]]]), lambda x: 10 * x)

    assert found.item() == (7**2 + 4**2) / 2


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_masked_generation_is_the_papers_sum_over_the_number_of_values(seed):
    student, teacher = maps(seed), maps(seed + 1)
    keep = random_keep(student, 0.5)

    found = masked_generation(student, teacher, keep, torch.relu)

    paper = F.mse_loss(torch.relu(student * keep), teacher, reduction="sum") / len(student)
    assert found.item() == pytest.approx(paper.item() / (3 * 4 * 5), rel=1e-5)


def test_a_mask_hides_whole_pixels_at_the_rate_it_is_given():
    torch.manual_seed(0)

    keep = random_keep(torch.zeros(4, 8, 50, 50), 0.65)

    assert keep.shape == (4, 1, 50, 50)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    assert keep.mean().item() == pytest.approx(0.35, abs=0.02)
