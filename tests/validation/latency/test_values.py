import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.latency import LATE, Latency


def test_jitter_by_hand():
    latency = Latency((4.0, 6.0, 5.0, 9.0))
    assert latency.deviation == pytest.approx(math.sqrt((4 + 0 + 1 + 9) / 3))
    assert latency.change == pytest.approx((2 + 1 + 4) / 3)
    assert math.isnan(latency.spread)
    assert Latency(tuple(float(value) for value in range(1, 101))).spread == 99.0 - 50.0


def test_one_sample_has_no_jitter():
    assert all(math.isnan(value) for value in (Latency((3.0,)).deviation, Latency((3.0,)).change, Latency(()).change))


@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=50))
def test_the_order_of_samples_matters_to_their_change_alone(samples):
    latency, turned = Latency(tuple(samples)), Latency(tuple(sorted(samples)))
    assert latency.deviation == pytest.approx(turned.deviation)
    assert latency.change >= turned.change - 1e-9


def test_a_dropped_image_misses_every_deadline_and_comes_last():
    latency = Latency((1.0, 2.0, LATE))
    assert (latency.missed(1.5), latency.missed(2.0), latency.missed(1e12)) == (2, 1, 1)
    assert latency.p50 == 2.0
    assert latency.max == LATE
