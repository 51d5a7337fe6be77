"""calibration.entropy: the vectorized divergence against its definition written out, and against ONNX Runtime's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.entropy import divergences, entropy_clip
from calibration.histogram import histogram


def divergence(counts, kept, levels):
    """KL(P || Q) as the slides of GTC 2017 write it, one threshold at a time."""
    p = counts[:kept].astype(float)
    p[-1] += counts[kept:].sum()
    q = np.zeros(kept)
    level = np.arange(kept) * levels // kept
    for i in range(levels):
        mine = (level == i) & (counts[:kept] > 0)
        if mine.any():
            q[mine] = counts[:kept][mine].sum() / mine.sum()
    if q.sum() == 0 or ((p > 0) & (q == 0)).any():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@given(counts=hnp.arrays(np.int64, st.integers(8, 60), elements=st.integers(0, 50)))
@settings(deadline=None)
def test_the_divergences_are_those_of_the_definition(counts):
    counts[0] += 1
    bins = np.arange(8, len(counts) + 1)

    found = divergences(counts.astype(np.float64), bins, 8)

    expected = [divergence(counts, kept, 8) for kept in bins]
    finite = np.isfinite(expected)
    assert np.array_equal(np.isfinite(found), finite)
    assert found[finite] == pytest.approx(np.array(expected)[finite], abs=1e-9)


def test_a_hand_computed_divergence():
    """Four bins kept of five, two levels: P = (4, 0, 3, 1 + 2) / 10, Q = (4, 0, 2, 2) / 8."""
    expected = 0.4 * np.log(0.4 / 0.5) + 0.3 * np.log(0.3 / 0.25) + 0.3 * np.log(0.3 / 0.25)

    (found,) = divergences(np.array([4.0, 0, 3, 1, 2]), np.array([4]), 2)

    assert found == pytest.approx(expected)


def test_uniform_values_are_not_clipped():
    x = np.random.default_rng(0).uniform(-1, 1, 4_000_000).astype(np.float32)

    assert entropy_clip(histogram(x)) > 0.97


def test_a_few_values_are_not_clipped_by_chance():
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)

    assert entropy_clip(histogram(x)) == np.abs(x).max()


def test_a_far_outlier_is_clipped():
    x = np.random.default_rng(1).standard_normal(1_000_000).astype(np.float32)
    x[3] = 30

    assert 2 < entropy_clip(histogram(x)) < 8


@pytest.mark.parametrize("values", [[0.0], [0.5], [-3.0, 3.0], [1e-45], [3e38]])
def test_constants_keep_their_largest_magnitude(values):
    x = np.float32(values)

    assert entropy_clip(histogram(x)) == pytest.approx(np.abs(x).max(), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_is_near_that_of_onnx_runtime(seed):
    from onnxruntime.quantization.calibrate import HistogramCollector

    x = np.random.default_rng(seed).standard_normal(300_000).astype(np.float32)
    collector = HistogramCollector(
        method="entropy", symmetric=True, num_bins=2048, num_quantized_bins=255, percentile=None, scenario=None
    )
    collector.collect({"x": [x]})

    _, high, *_ = collector.compute_entropy()["x"]

    # Theirs quantizes both signs into one row of levels, which does not line up with zero.
    assert entropy_clip(histogram(x)) == pytest.approx(float(high), rel=0.1)
