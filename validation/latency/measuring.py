"""One scenario measured with all that belongs to it: warm-up, load, the machine's state, memory, energy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from avcompress.contract import Measure, Scenario
from validation.latency.load import background_load
from validation.latency.scenarios import run_scenario, warm_up
from validation.latency.stages import Stages
from validation.latency.timing import REAL, Time
from validation.latency.values import LATE, Latency
from validation.machine import MachineLog, PeakMemory, energy_j, logged, read_state, throttled
from validation.machine.log import ReadState


@dataclass(frozen=True)
class ScenarioResult:
    """What one scenario gave.

    Attributes:
        scenario: how the images came.
        measure: how many, at which rate, of how many cameras, under which load.
        samples_ms: from the moment when an image was due to its result, of those that got one, in that order.
        arrivals_s: when each of them was due, from the start.
        cameras: where each of them came from.
        stages: by name, in the order of `samples_ms`; disjoint, they add up to it: waiting (where images queue),
            preprocess, inference, postprocess.
        dropped_s: when the images were due that a newer one pushed out of the queue.
        seconds: from the start to the last result.
        machine: its state before and after, and meanwhile where that was asked for.
        peak_memory_mb: the most that the process held; None where the system does not tell.
        energy_j: by what counted it; empty where nothing does.
        throttled: one line for each sign that the machine slowed down.
    """

    scenario: Scenario
    measure: Measure
    samples_ms: tuple[float, ...]
    arrivals_s: tuple[float, ...] = ()
    cameras: tuple[int, ...] = ()
    stages: Mapping[str, Latency] = field(default_factory=dict)
    dropped_s: tuple[float, ...] = ()
    seconds: float = math.nan
    machine: MachineLog = field(default_factory=MachineLog)
    peak_memory_mb: float | None = None
    energy_j: Mapping[str, float] = field(default_factory=dict)
    throttled: tuple[str, ...] = ()

    @property
    def served(self) -> Latency:
        """Of the images that got a result."""
        return Latency(self.samples_ms)

    @property
    def all_images(self) -> Latency:
        """Of every image that came: a dropped one is later than any deadline. What deadlines are held against."""
        return Latency((*self.samples_ms, *(LATE for _ in self.dropped_s)))


@dataclass(frozen=True)
class Instruments:
    """What a measurement reads.

    Attributes:
        time: the clock, and how to wait.
        read: the machine's state.
        every_s: how often to read it during the measurement, which disturbs it; None: only before and after.
    """

    time: Time = REAL
    read: ReadState = read_state
    every_s: float | None = None


def measure_scenario(
    scenario: Scenario,
    stages: Stages,
    items: Sequence[Any],
    measure: Measure,
    instruments: Instruments | None = None,
) -> ScenarioResult:
    """Warm up, then feed images to a chain of stages as the scenario has them come.

    Args:
        scenario: how images come.
        stages: by name, in order; `validation.predict.stages` gives those from an image to a prediction.
        items: what the first stage is fed, in turn.
        measure: how many, at which rate, of how many cameras, under which load.
        instruments: what is read; default: this machine's own.

    Raises RecipeError without an item, MissingError when the background load cannot be kept up.
    """
    used = instruments or Instruments()
    memory = PeakMemory()
    with background_load(measure.background_load):
        warm_up(stages, items, measure.warmup)
        # After the warm-up: clocks are compared with those of a machine that is at work.
        with logged(used.read, used.every_s) as recording:
            found = run_scenario(scenario, stages, items, measure, used.time)
    return ScenarioResult(
        scenario=scenario,
        measure=measure,
        samples_ms=found.latency.samples_ms,
        arrivals_s=found.arrivals_s,
        cameras=found.cameras,
        stages=found.stages,
        dropped_s=found.dropped_s,
        seconds=found.seconds,
        machine=recording.log,
        peak_memory_mb=memory.mb,
        energy_j=energy_j(recording.log),
        throttled=throttled(recording.log),
    )
