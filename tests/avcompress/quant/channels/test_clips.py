"""avcompress.quant.channels.clips against counting and rounding one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.quant.channels.clips import POSITIONS, ChannelTally


def squared_error(values, clip):
    step = clip / 127
    return np.sum((np.abs(values) - np.minimum(np.rint(np.abs(values) / step), 127) * step) ** 2)


def tally_of(*images):
    tally = ChannelTally(len(images[0]))
    for image in images:
        tally.add_(image)
    return tally


def test_even_values_are_not_clipped():
    values = np.linspace(-3, 3, 4000, dtype=np.float32)

    assert tally_of(values[None]).clips()[0] == pytest.approx(3, rel=0.02)


def test_the_clip_of_laplacian_values_is_that_of_the_literature():
    """Banner et al., arXiv:1810.05723, section 2.1: 9.89 times the scale is optimal for eight bits."""
    rng = np.random.default_rng(0)

    tally = tally_of(*(rng.laplace(scale=0.5, size=(1, POSITIONS)).astype(np.float32) for _ in range(150)))

    assert tally.amax[0] > 6
    assert tally.clips()[0] == pytest.approx(9.89 * 0.5, rel=0.1)


@given(scale=st.floats(1e-6, 1e6), tail=st.floats(1, 20), seed=st.integers(0, 99))
def test_no_other_clip_has_a_much_smaller_error(scale, tail, seed):
    values = (np.random.default_rng(seed).standard_normal(2000) * scale).astype(np.float32)
    values[0] *= np.float32(tail)

    (clip,) = tally_of(values[None]).clips()

    best = min(squared_error(values, c) for c in np.abs(values).max() * np.geomspace(1, 1 / 32, 300))
    assert squared_error(values, clip) <= best * 1.25


@given(st.permutations(range(5)))
def test_the_order_of_the_images_does_not_matter(order):
    rng = np.random.default_rng(3)
    images = [(rng.standard_normal((2, 50)) * 10.0**i).astype(np.float32) for i in range(-2, 3)]

    assert np.array_equal(tally_of(*(images[i] for i in order)).clips(), tally_of(*images).clips())


def test_a_channel_of_zeros_has_the_clip_zero():
    assert tally_of(np.zeros((3, 10), np.float32)).clips().tolist() == [0, 0, 0]


def test_the_largest_value_of_a_large_map_counts_though_few_positions_are_counted():
    values = np.ones((1, POSITIONS * 5 + 3), np.float32)
    values[0, 7] = 64

    assert tally_of(values).amax.tolist() == [64]
