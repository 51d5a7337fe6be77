"""Several engines run in turns; the clock and the engines are made up."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.latency import in_turn, time_each


def test_each_turn_has_each_engine_once_and_the_warm_up_is_left_out() -> None:
    ran: list[str] = []
    now = [0]

    def engine(name: str, ms: int) -> Callable[[], None]:
        def run() -> None:
            ran.append(name)
            now[0] += ms * 1_000_000

        return run

    times = time_each([engine("a", 1), engine("b", 2), engine("c", 3)], 2, warmup=1, clock=lambda: now[0])

    assert [sorted(ran[turn : turn + 3]) for turn in (0, 3, 6)] == [["a", "b", "c"]] * 3
    assert times.tolist() == [[1, 2, 3], [1, 2, 3]]


def test_no_engine_follows_the_same_one_more_often_than_another_and_the_order_is_the_same_every_time() -> None:
    ran: list[str] = []
    runs = [partial(ran.append, name) for name in "abcd"]
    time_each(runs, 600)
    first = ran.copy()
    ran.clear()
    time_each(runs, 600)

    assert ran == first
    pairs = Counter((one, other) for one, other in pairwise(first) if one != other)
    assert len(pairs) == 12
    assert max(pairs.values()) < 1.5 * min(pairs.values())


def test_a_turn_in_which_the_machine_was_slow_for_all_moves_nothing() -> None:
    times = np.tile([[10.0, 20.0, 30.0]], (50, 1))
    times[10:20] *= 3

    assert [(each.p50_ms, each.noise_ms) for each in in_turn(times)] == [
        pytest.approx((10, 0.2)), pytest.approx((20, 0.4)), pytest.approx((30, 0.6))
    ]  # fmt: skip


@given(seed=st.integers(0, 10_000), spread=st.floats(0.01, 0.5))
def test_engines_of_one_speed_are_hardly_ever_told_apart(seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    moods = np.repeat(random.uniform(1, 3, 10), 20)[:, None]
    one, other, slow = in_turn(moods * random.lognormal(0, spread, (200, 3)) * [10, 10, 30])

    # Two intervals of 90 % that do not meet: about one in fifty, hence twice the noise.
    assert abs(one.p50_ms - other.p50_ms) <= 2 * (one.noise_ms + other.noise_ms)
    assert slow.p50_ms - one.p50_ms > slow.noise_ms + one.noise_ms


def test_with_very_few_turns_the_noise_is_as_wide_as_they_are() -> None:
    (one, other) = in_turn(np.array([[1.0, 2.0], [2.0, 1.0]]))

    assert abs(one.p50_ms - other.p50_ms) <= one.noise_ms + other.noise_ms
