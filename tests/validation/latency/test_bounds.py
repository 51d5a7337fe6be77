import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from validation.latency import Latency, miss_rate_bounds, runs_for_bound
from validation.latency.bounds import at_least, percentile_ranks

# scipy 1.17: binomtest(misses, runs).proportion_ci(2 * confidence - 1, "exact").
SCIPY = [
    (0, 10, 0.95, 0.0, 0.25886555089334723),
    (1, 10, 0.95, 0.005116196892304593, 0.394163302436974),
    (10, 10, 0.95, 0.7411344491066528, 1.0),
    (3, 200, 0.95, 0.004100613335066179, 0.03830970849818953),
    (0, 2995, 0.95, 0.0, 0.000999744420901186),
    (5, 1000, 0.975, 0.001625419517373302, 0.011629470559812206),
    (37, 1234, 0.99, 0.01981293537569143, 0.04329359948201428),
    (50000, 100000, 0.975, 0.4968960624917999, 0.5031039375082001),
    (7, 1_000_000, 0.975, 2.8143675343108e-06, 1.4422621834285585e-05),
]


@pytest.mark.parametrize(("misses", "runs", "confidence", "low", "high"), SCIPY)
def test_bounds_of_a_rate_are_scipys(misses, runs, confidence, low, high):
    assert miss_rate_bounds(misses, runs, confidence) == pytest.approx((low, high), rel=1e-7, abs=1e-15)


def test_no_miss_in_ten_bounds_the_rate_by_hand():
    # (1 - p)^10 = 0.05
    assert miss_rate_bounds(0, 10) == (0.0, pytest.approx(1 - 0.05**0.1, rel=1e-12))
    assert all(math.isnan(end) for end in miss_rate_bounds(0, 0))


@example((2, 1), 1.0)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n + 1), st.just(n))), st.floats(0, 1))
def test_the_tail_is_the_sum_of_its_terms(counts, rate):
    count, runs = counts
    exact = math.fsum(math.comb(runs, k) * rate**k * (1 - rate) ** (runs - k) for k in range(count, runs + 1))
    assert at_least(count, runs, rate) == pytest.approx(exact, abs=1e-12)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_each_bound_leaves_exactly_its_error_and_holds_the_estimate(counts, confidence):
    misses, runs = counts
    low, high = miss_rate_bounds(misses, runs, confidence)

    assert low <= misses / runs <= high
    if misses:
        assert at_least(misses, runs, low) == pytest.approx(1 - confidence, rel=1e-6)
    if misses < runs:
        assert 1 - at_least(misses + 1, runs, high) == pytest.approx(1 - confidence, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("fraction", "runs"), [(0.5, 5), (0.9, 29), (0.99, 299), (0.999, 2995)])
def test_the_fewest_runs_of_an_upper_bound_and_one_less_has_none(fraction, runs):
    assert runs_for_bound(fraction) == runs
    assert 1 - fraction**runs >= 0.95 > 1 - fraction ** (runs - 1)
    assert percentile_ranks(runs, fraction)[1] == runs
    assert percentile_ranks(runs - 1, fraction)[1] is None


def test_ranks_of_the_median_of_ten_are_those_of_the_tables():
    # Bin(10, 1/2): P(X < 9) = 0.9893, P(X < 8) = 0.9453; by symmetry P(X >= 2) = 0.9893, P(X >= 3) = 0.9453.
    assert percentile_ranks(10, 0.5) == (2, 9)
    assert Latency(tuple(float(value) for value in range(10, 0, -1))).bounds("p50") == (2.0, 9.0)


def test_a_bound_that_the_samples_cannot_give_is_nan():
    low, high = Latency(tuple(float(value) for value in range(1, 1001))).bounds("p99.9")
    assert low == 997.0  # P(Bin(1000, .999) >= 997) = 0.981, >= 998: 0.920
    assert math.isnan(high)
    assert all(math.isnan(end) for end in Latency(()).bounds("p50"))


@pytest.mark.parametrize("name", ["p50", "p90", "p99"])
def test_bounds_hold_as_often_as_they_say(name):
    import numpy as np

    rng, tries, runs = np.random.default_rng(5), 300, 400
    truth = -math.log(1 - {"p50": 0.5, "p90": 0.9, "p99": 0.99}[name])
    found = [Latency(tuple(rng.exponential(size=runs).tolist())).bounds(name) for _ in range(tries)]
    # At least 95 %; of 300 tries fewer than 272 would be a chance of 1 in 1,000.
    assert sum(low <= truth for low, _ in found) >= 272
    assert sum(truth <= high for _, high in found) >= 272
