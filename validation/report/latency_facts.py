"""Turns scenarios that were measured into the report's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from validation.latency import CONFIDENCE, PERMILLE, Latency, ScenarioResult, Speedup, miss_rate_bounds
from validation.machine import MachineLog
from validation.report.facts import percentiles
from validation.report.latency import MachineState, Misses, ScenarioFacts, SpeedupFacts
from validation.report.values import Interval, Range


@dataclass(frozen=True)
class Asked:
    """What a scenario is held against, and how.

    Attributes:
        deadlines_ms: the contract's, of this engine in this scenario.
        confidence: of each bound by itself.
        end_to_end: whether pre- and post-processing are timed, too.
    """

    deadlines_ms: tuple[float, ...] = ()
    confidence: float = CONFIDENCE
    end_to_end: bool = True


def speedup_facts(found: Speedup) -> SpeedupFacts:
    """An engine timed in turns with the float network."""
    ratio = Interval(value=found.ratio, low=found.low, high=found.high)
    return SpeedupFacts(before_ms=found.before_ms, after_ms=found.after_ms, ratio=ratio)


def scenario_facts(engine: str, result: ScenarioResult, asked: Asked = Asked()) -> ScenarioFacts:
    """One scenario of one engine; a dropped image is later than any deadline, and counts in percentiles so."""
    every, served, measure = result.all_images, result.served, result.measure
    alone = result.scenario == "single_stream"
    return ScenarioFacts(
        engine=engine,
        scenario=result.scenario,
        end_to_end=asked.end_to_end,
        rate_hz=None if alone else measure.rate_hz,
        cameras=measure.cameras if result.scenario == "multi_camera" else 1,
        queue=None if alone else measure.queue,
        background_load=measure.background_load,
        warmup=measure.warmup,
        percentiles={name: _percentile(every, name, asked.confidence) for name in PERMILLE},
        mean_ms=served.mean,
        max_ms=served.max,
        jitter_ms=served.deviation,
        misses=tuple(_misses(every, deadline, asked.confidence) for deadline in sorted(set(asked.deadlines_ms))),
        confidence=asked.confidence,
        stages={name: percentiles(stage) for name, stage in result.stages.items()},
        arrivals_s=result.arrivals_s,
        samples_ms=result.samples_ms,
        dropped_s=result.dropped_s,
        machine=machine_facts(result.machine),
        throttled=result.throttled,
        peak_memory_mb=result.peak_memory_mb,
        energy_j=dict(result.energy_j),
    )


def machine_facts(log: MachineLog) -> MachineState | None:
    """The least and the most of all that a log tells; None where nothing was looked at."""
    states = log.states
    if not states:
        return None
    clocks: dict[str, list[float]] = {"cpu": [mhz for state in states for mhz in state.cpu_mhz]}
    heat: dict[str, list[float]] = {}
    for gpu in itertools.chain.from_iterable(state.gpus for state in states):
        clocks.setdefault(gpu.name, []).extend(_known(gpu.clock_mhz))
        heat.setdefault(gpu.name, []).extend(_known(gpu.temperature_c))
    for state in states:
        for zone, celsius in state.temperatures_c.items():
            heat.setdefault(zone, []).append(celsius)
    loads = [load for state in states for load in _known(state.load_average)]
    return MachineState(
        governors=tuple(dict.fromkeys(name for state in states for name in state.governors)),
        power_mode=next((state.power_mode for state in states if state.power_mode), None),
        clocks_mhz=_ranges(clocks),
        temperatures_c=_ranges(heat),
        load_average=_range(loads) if loads else None,
    )


def _percentile(latency: Latency, name: str, confidence: float) -> Interval:
    value = latency.percentile(name)
    # Too few images for the estimate are too few for its bounds, too.
    low, high = (math.nan, math.nan) if math.isnan(value) else latency.bounds(name, confidence)
    return Interval(value=value, low=low, high=high)


def _misses(latency: Latency, deadline_ms: float, confidence: float) -> Misses:
    total, missed = len(latency.samples_ms), latency.missed(deadline_ms)
    low, high = miss_rate_bounds(missed, total, confidence)
    rate = Interval(value=missed / total if total else math.nan, low=low, high=high)
    return Misses(deadline_ms=deadline_ms, missed=missed, rate=rate)


def _known(value: float | None) -> Iterable[float]:
    return () if value is None else (value,)


def _ranges(found: dict[str, list[float]]) -> dict[str, Range]:
    return {name: _range(values) for name, values in found.items() if values}


def _range(values: list[float]) -> Range:
    return Range(low=min(values), high=max(values))
