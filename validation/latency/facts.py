"""The JSON of `avcompress bench`: what was measured, how, on what. Its layout is described in docs/latency.md."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import AwareDatetime, Field

from avcompress.contract import Scenario
from avcompress.frozen import Measured, Model
from avcompress.spec import Decide
from validation.latency.bounds import CONFIDENCE, miss_rate_bounds
from validation.latency.measuring import ScenarioResult
from validation.latency.terms import TermFigure
from validation.latency.values import PERMILLE, Latency
from validation.machine import GpuState, MachineState


class BoundedMs(Model):
    """A percentile in milliseconds; nearest-rank, so a latency that did occur."""

    ms: Measured = Field(description="the estimate; null where the images are too few for it")
    low_ms: Measured = Field(description="lower bound, with the confidence of the document by itself; null likewise")
    high_ms: Measured = Field(description="upper bound, likewise; null where even the slowest image is none")


class Distribution(Model):
    """A latency's distribution, of the images that got a result."""

    images: int = Field(description="how many")
    mean_ms: Measured = Field(description="arithmetic mean")
    p50: BoundedMs = Field(description="median")
    p90: BoundedMs = Field(description="takes 10 images, an upper bound 29")
    p99: BoundedMs = Field(description="takes 100 images, an upper bound 299")
    p99_9: BoundedMs = Field(description="takes 1,000 images, an upper bound 2,995")
    max_ms: Measured = Field(description="the slowest")
    deviation_ms: Measured = Field(description="jitter: sample standard deviation")
    spread_ms: Measured = Field(description="jitter: p99 - p50")
    change_ms: Measured = Field(description="jitter: mean absolute difference of consecutive images")


class Misses(Model):
    """Images later than the deadline; dropped ones are among them."""

    deadline_ms: float = Field(description="milliseconds from when the image was due")
    images: int = Field(description="how many missed it")
    of: int = Field(description="how many came")
    rate: Measured = Field(description="their share, 0-1")
    low: Measured = Field(description="Clopper-Pearson bound from below, 0-1")
    high: Measured = Field(description="Clopper-Pearson bound from above, 0-1")


class DeadlineCheck(Model):
    """A figure held against its limit."""

    name: str = Field(description="p50, p90, p99, p99.9 or miss rate; over all images that came, dropped ones too")
    decide: Decide = Field(description="what of the figure must keep the limit")
    value: Measured = Field(description="the estimate; null where it could not be measured or the image never came")
    low: Measured = Field(description="lower bound")
    high: Measured = Field(description="upper bound")
    measured: Measured = Field(description="the one of the three that is held against the limit; null never keeps it")
    limit: float = Field(description="the most that is allowed")
    unit: Literal["ms", ""] = Field(description="of all of them; empty for a rate, 0-1")
    passed: bool = Field(description="whether the limit is kept")
    note: str = Field(description="why there is no figure, or what is to be known about it")


class Gpu(Model):
    """A GPU at one moment; null where it does not tell."""

    name: str = Field(description="as the driver has it")
    clock_mhz: float | None = Field(description="of its arithmetic")
    memory_mhz: float | None = Field(description="of its memory")
    temperature_c: float | None = Field(description="degrees Celsius")
    power_w: float | None = Field(description="what it draws")
    slowed_by: tuple[str, ...] = Field(description="reasons that hold its clock down")


class State(Model):
    """The machine at one moment; null or empty where it does not tell."""

    at_s: float = Field(description="seconds after the first look")
    governors: tuple[str, ...] = Field(description="of the cores' clocks, each once")
    cpu_mhz: tuple[float, ...] = Field(description="clock by core")
    temperatures_c: dict[str, float] = Field(description="by thermal zone")
    cooling: dict[str, int] = Field(description="state of each cooling device; 0 is idle")
    throttle_counts: dict[str, int] = Field(description="events since the machine started, by what counts them")
    load_average: float | None = Field(description="runnable processes, mean of the last minute")
    memory_available_mb: float | None = Field(description="what new programs could have")
    power_mode: str | None = Field(description="of a Jetson, as nvpmodel calls it")
    rails_w: dict[str, float] = Field(description="power by rail")
    energy_counters_j: dict[str, float] = Field(description="readings of counters of energy")
    gpus: tuple[Gpu, ...] = Field(description="those that tell")


class ScenarioFacts(Model):
    """One scenario, measured."""

    scenario: Scenario = Field(description="how images came")
    images: int = Field(description="how many came")
    warmup: int = Field(description="images before them that do not count")
    rate_hz: float | None = Field(description="of each camera; null in single_stream")
    cameras: int = Field(description="how many")
    queue: Literal["newest", "every"] | None = Field(description="what waiting images do; null in single_stream")
    phases: Literal["spread", "same"] | None = Field(description="of the cameras; null where there is one")
    background_load: int = Field(description="processes that kept cores busy")
    seconds: Measured = Field(description="from the start to the last result")
    latency: Distribution = Field(description="from when an image was due to its result, where it got one")
    stages: dict[str, Distribution] = Field(
        description="waiting, preprocess, inference, postprocess: the disjoint parts of it"
    )
    dropped: int = Field(description="images that a newer one pushed out of the queue")
    peak_memory_mb: float | None = Field(description="the most that the process held, 10^6 bytes")
    energy_j: dict[str, float] = Field(description="joules by what counted them, all that ran on the machine")
    throttled: tuple[str, ...] = Field(description="signs that the machine slowed down")
    machine: tuple[State, ...] = Field(description="its state before and after, and meanwhile where asked for")
    samples_ms: tuple[float, ...] = Field(description="latency of each image that got a result, in that order")
    arrivals_s: tuple[float, ...] = Field(description="when each of them was due, from the start")
    cameras_of: tuple[int, ...] = Field(description="the camera of each of them")
    dropped_s: tuple[float, ...] = Field(description="when the dropped images were due, from the start")


class Beside(Model):
    """An engine that was run in turns with others."""

    engine: str = Field(description="the path that was given")
    p50_ms: float = Field(description="median, the machine's moods divided out, which all of them met")
    noise_ms: float = Field(
        description="how far chance may have moved that; engines nearer to each other than both their noises are equal"
    )


class BenchFacts(Model):
    """What `avcompress bench` found."""

    schema_version: Literal[1] = Field(1, description="version of this layout; a change that breaks readers raises it")
    created: AwareDatetime = Field(description="when it ended, ISO 8601 with its time zone")
    engine: str = Field(description="the path that was given")
    network: str = Field(description="name of the recipe that it came from, else of the file")
    backend: str = Field(description="ort, openvino, trt_rtx or trt")
    size_bytes: int = Field(description="of the engine's files")
    timed: Literal["end to end", "engine only"] = Field(
        description="from the image in memory to the prediction, or from the network's input to its output"
    )
    data: str = Field(description="what it was fed")
    confidence: float = Field(description="of each bound by itself")
    scenario: ScenarioFacts = Field(description="what was measured")
    misses: Misses | None = Field(description="null without a deadline")
    checks: tuple[DeadlineCheck, ...] = Field(description="the deadline, as it was asked for; empty without one")
    passed: bool | None = Field(description="whether every check is kept; null without one")
    in_turns: tuple[Beside, ...] = Field(
        (), description="this engine and those beside it, each fed one image in turn; empty where there are none"
    )
    warnings: tuple[str, ...] = Field(description="what makes the figures less than they seem")
    notes: tuple[str, ...] = Field(description="what else is to be known about them")
    machine: dict[str, str] = Field(description="processor, cores, operating system, Python")
    versions: dict[str, str] = Field(description="of this tool and of the libraries that it used")


def distribution(latency: Latency, confidence: float = CONFIDENCE) -> Distribution:
    """A latency as it stands in the JSON; a percentile that its images are too few for has no bounds either."""
    bounded = {}
    for name in PERMILLE:
        value = latency.percentile(name)
        low, high = (value, value) if math.isnan(value) else latency.bounds(name, confidence)
        bounded[name.replace(".", "_")] = BoundedMs(ms=value, low_ms=low, high_ms=high)
    return Distribution(
        images=len(latency.samples_ms),
        mean_ms=latency.mean,
        max_ms=latency.max,
        deviation_ms=latency.deviation,
        spread_ms=latency.spread,
        change_ms=latency.change,
        **bounded,
    )


def scenario_facts(result: ScenarioResult, confidence: float = CONFIDENCE) -> ScenarioFacts:
    """A result as it stands in the JSON."""
    measure, streamed = result.measure, result.scenario != "single_stream"
    cameras = measure.cameras if result.scenario == "multi_camera" else 1
    return ScenarioFacts(
        scenario=result.scenario,
        images=len(result.samples_ms) + len(result.dropped_s),
        warmup=measure.warmup,
        rate_hz=measure.rate_hz if streamed else None,
        cameras=cameras,
        queue=measure.queue if streamed else None,
        phases=measure.phases if cameras > 1 else None,
        background_load=measure.background_load,
        seconds=result.seconds,
        latency=distribution(result.served, confidence),
        stages={name: distribution(stage, confidence) for name, stage in result.stages.items()},
        dropped=len(result.dropped_s),
        peak_memory_mb=result.peak_memory_mb,
        energy_j=dict(result.energy_j),
        throttled=result.throttled,
        machine=tuple(_state(state, result.machine.states[0].at_s) for state in result.machine.states),
        samples_ms=result.samples_ms,
        arrivals_s=result.arrivals_s,
        cameras_of=result.cameras,
        dropped_s=result.dropped_s,
    )


def misses(result: ScenarioResult, deadline_ms: float, confidence: float = CONFIDENCE) -> Misses:
    """How many images missed a deadline."""
    latency = result.all_images
    missed, came = latency.missed(deadline_ms), len(latency.samples_ms)
    low, high = miss_rate_bounds(missed, came, confidence)
    rate = missed / came if came else math.nan
    return Misses(deadline_ms=deadline_ms, images=missed, of=came, rate=rate, low=low, high=high)


def deadline_check(figure: TermFigure, decide: Decide) -> DeadlineCheck:
    """A figure of a term as it stands in the JSON, with the verdict on it."""
    return DeadlineCheck(
        name=figure.name,
        decide=decide,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        measured=figure.measured,
        limit=figure.limit,
        unit=figure.unit,
        passed=figure.measured <= figure.limit,
        note=figure.note,
    )


def _state(state: MachineState, origin_s: float) -> State:
    return State(
        at_s=state.at_s - origin_s,
        governors=state.governors,
        cpu_mhz=state.cpu_mhz,
        temperatures_c=dict(state.temperatures_c),
        cooling={name: found.state for name, found in state.cooling.items()},
        throttle_counts=dict(state.throttle_counts),
        load_average=state.load_average,
        memory_available_mb=state.memory_available_mb,
        power_mode=state.power_mode,
        rails_w=dict(state.rails_w),
        energy_counters_j={name: counter.joules for name, counter in state.counters.items()},
        gpus=tuple(map(_gpu, state.gpus)),
    )


def _gpu(gpu: GpuState) -> Gpu:
    return Gpu(
        name=gpu.name,
        clock_mhz=gpu.clock_mhz,
        memory_mhz=gpu.memory_mhz,
        temperature_c=gpu.temperature_c,
        power_w=gpu.power_w,
        slowed_by=gpu.slowed_by,
    )
