"""What the latency harness itself costs, and whether it finds again what was put in.

    python benchmarks/latency_harness.py [--queries N]

- overhead: wall time a query where three stages do nothing, back to back, and from a queue that is never empty.
- lateness: how long after it was due an image is taken up by an idle worker: what the waiting itself adds.
- recovery: a stage that sleeps for times drawn from a lognormal distribution. The p99 and the rate of misses of each
  scenario are held against those that the very sleeps give, by Lindley's recursion for the queue: as long as they were
  asked to be (which an operating system exceeds, more so when it is busy), and as long as the stage saw them last,
  which decides. The rate has to be inside the bounds of the measured one, 97.5 % each.
- looking: one look at the machine's state, and what a thread that looks ten times a second does to a busy stage.

Ends with 1 when the overhead is above 20 us, a p99 off by more than 2 %, or a rate outside its bounds.
"""

import argparse
import itertools
import math
import sys
import time
from typing import Any

import numpy as np

from avcompress.contract import Measure
from validation.latency import Latency, measure_scenario, miss_rate_bounds, run_scenario
from validation.latency.measuring import Instruments
from validation.machine import MachineState, read_state

LIMIT_US = 20.0
LIMIT_P99 = 0.02
LOG_MEAN, LOG_SIGMA, RATE_HZ = math.log(8.0), 0.35, 80.0
QUIET = Instruments(read=lambda: MachineState(time.monotonic()))


def main() -> int:
    """Measure all four, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000)
    queries = parser.parse_args().queries
    kept = all([overhead(), recovery(queries)])
    lateness()
    looking()
    print(f"\nkept: {kept}")
    return 0 if kept else 1


def overhead() -> bool:
    """Print the wall time of a query that does nothing."""
    nothing = {name: lambda value: value for name in ("preprocess", "inference", "postprocess")}
    kept = True
    for scenario, measure in (
        ("single_stream", Measure(runs=20_000)),
        ("constant_stream", Measure(runs=20_000, rate_hz=1e6, queue="every")),
    ):
        each = [1e6 * _seconds(scenario, nothing, measure) / measure.runs for _ in range(5)]
        kept &= min(each) <= LIMIT_US
        print(
            f"overhead, {scenario}: {min(each):.2f} us a query (best of 5; worst {max(each):.2f}), limit {LIMIT_US:g}"
        )
    return kept


def _seconds(scenario: Any, stages: Any, measure: Measure) -> float:
    return run_scenario(scenario, stages, [None], measure).seconds


def lateness() -> None:
    """Print how late an idle worker takes up an image."""
    found = run_scenario("constant_stream", {"run": lambda value: value}, [None], Measure(runs=1000, rate_hz=200.0))
    late = Latency(tuple(1e3 * sample for sample in found.latency.samples_ms))
    print(f"lateness at 200 Hz: p50 {late.p50:.1f} us, p99 {late.p99:.1f} us, max {late.max:.0f} us")


def recovery(queries: int) -> bool:
    """Print what was put in beside what was measured."""
    rng = np.random.default_rng(7)
    asked_ms = np.exp(rng.normal(LOG_MEAN, LOG_SIGMA, queries))
    kept = True
    for scenario in ("single_stream", "constant_stream"):
        sleep = Sleep(asked_ms)
        measure = Measure(warmup=0, runs=queries, rate_hz=RATE_HZ, queue="every")
        found = measure_scenario(scenario, {"run": sleep}, [None], measure, QUIET).all_images
        wait = _queued if scenario == "constant_stream" else np.array
        kept &= _recovered(f"recovery, {scenario}, as slept", found, wait(sleep.slept_ms))
        _recovered(f"recovery, {scenario}, as asked", found, wait(asked_ms))
    return kept


class Sleep:
    """A stage that sleeps for given times; `slept_ms` is what it took by its own clock."""

    def __init__(self, asked_ms: Any) -> None:
        self.slept_ms: list[float] = []
        self._asked_s = iter((asked_ms / 1e3).tolist())

    def __call__(self, _: Any) -> None:
        """Sleep."""
        start = time.perf_counter_ns()
        time.sleep(next(self._asked_s))
        self.slept_ms.append((time.perf_counter_ns() - start) / 1e6)


def _queued(work_ms: Any) -> Any:
    """Latencies of one server that images reach every period: Lindley's recursion."""
    period_ms = 1e3 / RATE_HZ
    waits = itertools.accumulate(work_ms[:-1], lambda wait, work: max(0.0, wait + work - period_ms), initial=0.0)
    return np.array(list(waits)) + work_ms


def _recovered(title: str, found: Latency, truth_ms: Any) -> bool:
    truth = Latency(tuple(truth_ms.tolist()))
    off = found.p99 / truth.p99 - 1
    deadline = float(np.quantile(truth_ms, 0.9))
    runs, misses = len(truth_ms), found.missed(deadline)
    rate = truth.missed(deadline) / runs
    low, high = miss_rate_bounds(misses, runs, 0.975)
    print(
        f"{title}: p99 {found.p99:.3f} ms for {truth.p99:.3f} ({100 * off:+.2f} %), p50 "
        f"{100 * (found.p50 / truth.p50 - 1):+.2f} %; misses {100 * misses / runs:.2f} % ({100 * low:.2f} to "
        f"{100 * high:.2f}) for {100 * rate:.2f} %"
    )
    return abs(off) <= LIMIT_P99 and low <= rate <= high


def looking() -> None:
    """Print what a look at the machine takes, and what ten a second do to others."""
    looks = []
    for _ in range(50):
        start = time.perf_counter()
        read_state()
        looks.append(1e3 * (time.perf_counter() - start))
    print(f"one look at the machine: p50 {np.median(looks):.2f} ms, max {max(looks):.2f} ms")

    def busy(_: Any) -> int:
        return sum(range(100_000))

    for every_s in (None, 0.1):
        found = measure_scenario(
            "single_stream", {"run": busy}, [None], Measure(runs=2000), Instruments(every_s=every_s)
        ).served
        print(f"looking every {every_s} s: busy stage p50 {found.p50:.3f}, p99 {found.p99:.3f}, max {found.max:.3f} ms")


if __name__ == "__main__":
    sys.exit(main())
