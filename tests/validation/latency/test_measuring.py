import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avcompress.contract import LatencyTerm, Measure
from avcompress.spec import MissingError
from validation.latency import Instruments, background_load, measure_scenario, term_figures
from validation.latency import load as load_module
from validation.machine import MachineState


def states(*temperatures):
    looks = iter(temperatures)
    return lambda: MachineState(at_s=0.0, temperatures_c={"cpu": next(looks)})


def test_a_result_holds_the_machine_from_after_the_warm_up_to_the_end(fake):
    seen = []
    instruments = Instruments(fake.time, lambda: MachineState(at_s=float(len(seen))))
    measure = Measure(warmup=3, runs=4)

    found = measure_scenario("single_stream", {"run": seen.append}, ["a", "b"], measure, instruments)

    assert seen == ["a", "b", "a", "a", "b", "a", "b"]
    assert [state.at_s for state in found.machine.states] == [3.0, 7.0]
    assert found.measure == measure
    assert found.peak_memory_mb > 1


def test_an_injected_distribution_comes_back(fake):
    # Lognormal with a heavy tail, every 50 ms, so that images wait now and then; the truth is Lindley's recursion.
    rng = np.random.default_rng(11)
    service = np.round(np.exp(rng.normal(2.3, 0.6, 4000)), 6)
    waits = [0.0]
    for work in service[:-1]:
        waits.append(max(0.0, waits[-1] + work - 50.0))
    truth = np.array(waits) + service
    measure = Measure(warmup=0, runs=len(service), rate_hz=20.0, queue="every")

    found = measure_scenario(
        "constant_stream", {"run": fake.work(*service)}, [None], measure, Instruments(fake.time, states(1.0, 1.0))
    )

    assert found.samples_ms == pytest.approx(truth, abs=1e-5)
    p99, rate = term_figures(LatencyTerm(deadline_ms=40.0, percentile="p99", max_miss_rate=0.02), found)
    population = np.exp(2.3 + 0.6 * 2.3263478740408408)  # of the service times alone: a bound from below
    assert p99.low <= np.quantile(truth, 0.99, method="inverted_cdf") == pytest.approx(p99.value)
    assert p99.high > population
    assert rate.low <= np.mean(truth > 40.0) == rate.value <= rate.high


def test_throttling_and_energy_are_told(fake):
    looks = iter([{"core_throttle_count": 4}, {"core_throttle_count": 6}])
    instruments = Instruments(fake.time, lambda: MachineState(at_s=0.0, throttle_counts=next(looks)))

    found = measure_scenario("single_stream", {"run": fake.work(1)}, [0], Measure(warmup=0, runs=1), instruments)

    assert found.throttled == ("core_throttle_count rose by 2: the processor slowed down",)
    assert found.energy_j == {}


def test_all_images_holds_the_dropped_ones(fake):
    found = measure_scenario(
        "constant_stream",
        {"run": fake.work(25, 1)},
        [0],
        Measure(warmup=0, runs=3, rate_hz=100.0),
        Instruments(fake.time, states(1.0, 1.0)),
    )
    assert found.samples_ms == (25.0, 6.0)
    assert found.all_images.samples_ms == (25.0, 6.0, math.inf)
    assert replace(found, dropped_s=()).all_images == found.served


# --- the load


def children():
    me = os.getpid()
    return {int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()}


def fail_under_load(processes, before):
    with background_load(processes):
        assert len(children() - before) == processes
        raise ZeroDivisionError


@pytest.mark.parametrize("processes", [0, 2])
def test_the_load_is_there_within_the_block_and_gone_after_it_even_on_an_error(processes):
    before = children()
    with pytest.raises(ZeroDivisionError):
        fail_under_load(processes, before)
    assert not (children() - before)


def wait_for_the_end_of(processes):
    for process in processes:
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


def test_a_load_that_died_is_told(monkeypatch):
    monkeypatch.setattr(load_module, "_BUSY", "print('x')")
    before = children()
    with pytest.raises(MissingError, match="expected 1 busy processes until the end, got 0"), background_load(1):
        wait_for_the_end_of(children() - before)


def test_the_load_ends_by_itself_when_its_parent_is_gone():
    code = """
import os
from pathlib import Path
from validation.latency.load import background_load
with background_load(1):
    print(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()[0], flush=True)
    os._exit(9)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    pid = int(ended.stdout)
    assert ended.returncode == 9
    for _ in range(50):
        if not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    pytest.fail("the load outlived its parent")
