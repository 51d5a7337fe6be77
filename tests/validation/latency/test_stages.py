import gc
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.spec import RecipeError
from validation.latency import Latency, measure_latency, measure_stages


def ticking(*readings_ms: float) -> Any:
    readings = iter([int(ms * 1e6) for ms in readings_ms])
    return lambda: next(readings)


def test_percentiles_of_a_hundred_samples_by_hand():
    latency = Latency(tuple(float(value) for value in range(100, 0, -1)))
    assert (latency.p50, latency.p90, latency.p99, latency.max, latency.mean) == (50.0, 90.0, 99.0, 100.0, 50.5)
    assert math.isnan(latency.p99_9)


def test_a_thousand_samples_support_the_last_permille_and_one_less_does_not():
    assert Latency(tuple(float(value) for value in range(1, 1001))).p99_9 == 999.0
    assert math.isnan(Latency(tuple(float(value) for value in range(1, 1000))).p99_9)
    assert math.isnan(Latency((1.0,) * 99).p99)


def test_no_samples_are_no_latency():
    empty = Latency(())
    assert all(math.isnan(value) for value in (empty.p50, empty.p99, empty.mean, empty.max))


@given(st.lists(st.floats(0, 1e4, allow_subnormal=False), min_size=1, max_size=1200))
def test_every_percentile_is_a_latency_that_occurred_and_numpy_agrees(samples):
    latency = Latency(tuple(samples))
    for name, fraction in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)):
        value = latency.percentile(name)
        if math.isnan(value):
            assert len(samples) < round(1 / (1 - fraction))
        else:
            assert value in samples
            assert value == np.quantile(samples, fraction, method="inverted_cdf")


def test_the_clock_is_read_around_every_run_and_warm_up_is_not_kept():
    latency = measure_latency(lambda: None, 1, 2, clock=ticking(0, 100, 200, 203, 300, 304.5))
    assert latency.samples_ms == (3.0, 4.5)


def test_stages_are_disjoint_and_add_up_to_the_total():
    seen: list[Any] = []
    stages = {"double": lambda x: 2 * x, "keep": lambda x: seen.append(x) or x}
    times = measure_stages(stages, 21, (0, 2), clock=ticking(0, 1, 4, 10, 12, 15))
    assert seen == [42, 42]
    assert times["double"].samples_ms == (1.0, 2.0)
    assert times["keep"].samples_ms == (3.0, 3.0)
    assert times["total"].samples_ms == (4.0, 5.0)


def test_the_garbage_collector_rests_and_comes_back_even_after_an_error():
    states = []
    measure_latency(lambda: states.append(gc.isenabled()), 0, 3)
    assert states == [False, False, False]
    with pytest.raises(ZeroDivisionError):
        measure_latency(lambda: 1 / 0, 0, 1)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        measure_latency(lambda: None, 0, 1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_someone_can_watch_all_runs():
    watched = []

    def track(items: Iterable[Any], total: int | None = None) -> Iterator[Any]:
        watched.append(total)
        yield from items

    measure_latency(lambda: None, 2, 3, track)
    assert watched == [5]


@pytest.mark.parametrize("counts", [(-1, 5), (0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(RecipeError, match="expected warmup >= 0 and runs >= 1"):
        measure_latency(lambda: None, *counts)
