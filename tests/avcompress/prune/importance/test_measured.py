"""Importance by what is really lost."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.prune import channel_groups
from avcompress.prune.importance import Lesson, measured
from avcompress.prune.importance.measured import widths


def images(count: int = 8) -> list[tuple[torch.Tensor, list[None]]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 2, 4, 4, generator=generator), [None] * 4) for _ in range(count // 4)]


def test_what_nobody_listens_to_costs_nothing_and_what_cannot_be_made_up_for_costs_what_it_carries(chain):
    # The channels are x0 - 2 x1, 3 x0 and x1; the third is read with weight 0.
    network = chain([[1.0, -2], [3, 0], [0, 1]], [[1.0, 1, 0], [0.3, 2, 0]])

    scores = measured(network, channel_groups(network), Lesson(images()), align=1)["first"]

    assert scores[2] == pytest.approx(0, abs=1e-6)
    assert scores[:2].min() > 0.01


def test_what_the_others_can_say_costs_nothing(chain):
    """The third channel is twice the first: derivatives call both important, what reads them makes up for either."""
    network = chain([[1.0, 0], [0, 1], [2, 0]], [[1.0, 0.5, 2], [0.3, 2, 1]])

    scores = measured(network, channel_groups(network), Lesson(images()), align=1)["first"]

    assert scores.min() == pytest.approx(0, abs=1e-4)
    assert np.sort(scores)[1] > 0.05


def test_the_distance_between_losses_counts_where_a_loss_is_given(chain):
    network = chain([[1.0, -2], [0.5, 3], [-1, 0.2]], [[1.0, 1, -1], [0.3, 2, 1]])

    def loss(outputs, _targets):
        return 0 * outputs.sum()

    assert measured(network, channel_groups(network), Lesson(images(), loss), align=1)["first"] == pytest.approx(
        0, abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 600), st.integers(1, 32))
def test_measured_widths_are_aligned_narrower_and_few(channels, align):
    found = widths(channels, align)

    assert len(found) <= 5
    assert found == sorted(set(found), reverse=True)
    assert all(width % align == 0 and channels / 10 <= width < channels for width in found)
