"""Two engines in turns: by hand, on a machine that becomes slower meanwhile, and in a contract."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.contract import Contract, SpeedupTerm
from validation.gates import Evidence, judge
from validation.latency import speedup_of, time_in_turns


def test_engines_take_turns_and_who_is_first_alternates(fake):
    before, after = fake.work(3, 3, 6), fake.work(2, 2, 4)
    seen = []

    times = time_in_turns(
        lambda: (seen.append("before"), before(0)), lambda: (seen.append("after"), after(0)), 3, fake.time.clock
    )

    assert times.tolist() == [[3, 2], [3, 2], [6, 4]]
    assert seen == ["after", "before", "before", "after", "after", "before"]


def test_the_ratio_is_that_of_each_turn():
    found = speedup_of(np.array([[3.0, 2.0], [8.0, 4.0], [30.0, 20.0]]))

    assert (found.before_ms, found.after_ms, found.ratio) == (8, 4, 1.5)
    assert (found.low, found.high) == (None, None)  # three turns bound nothing


@given(slow=st.lists(st.floats(1, 100), min_size=30, max_size=60), ratio=st.floats(0.5, 4))
def test_a_busy_machine_is_busy_for_both(slow, ratio):
    load = np.array(slow)

    found = speedup_of(np.stack([load * ratio, load], axis=1))

    assert found.ratio == pytest.approx(ratio)
    assert found.low <= found.ratio * (1 + 1e-9)
    assert found.high >= found.ratio * (1 - 1e-9)


def test_the_bounds_hold_the_median_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        found = speedup_of(np.stack([rng.lognormal(0.3, 0.5, 40), np.ones(40)], axis=1))
        inside += found.low <= math.exp(0.3)

    assert inside / 400 >= 0.93  # 95 % by the binomial distribution, less what 400 draws leave open


TERMS = Contract(speedup=(SpeedupTerm(min=1.4), SpeedupTerm(min=1.4, decide="proven_kept")))


def test_a_floor_on_the_speed_up_is_a_line_of_the_contract():
    times = np.stack([np.linspace(1.3, 1.7, 41), np.ones(41)], axis=1)

    point, proven = judge(TERMS, Evidence(speedups={"openvino": speedup_of(times)})).checks

    assert (point.name, point.sense, point.limit, point.unit) == ("speed-up @ openvino", ">=", 1.4, "×")
    assert point.measured == pytest.approx(1.5)
    assert 1.4 < point.low < 1.5 < point.high < 1.6
    assert point.passed
    assert proven.passed
    assert not judge(
        TERMS.model_copy(update={"speedup": (SpeedupTerm(min=1.51),)}),
        Evidence(speedups={"openvino": speedup_of(times)}),
    ).passed


def test_what_was_not_timed_in_turns_fails_and_says_so():
    check, _ = judge(TERMS, Evidence()).checks

    assert not check.passed
    assert "not measured: the float network was not built for this engine here" in check.note
