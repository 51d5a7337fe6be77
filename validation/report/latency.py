"""The report's part on latency: percentiles, scenarios with every sample, and the state of the machine meanwhile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from avcompress.contract import Percentile, Scenario
from avcompress.frozen import Model
from validation.report.values import Interval, Measured, Range


class Percentiles(Model):
    """A latency's distribution in milliseconds; percentiles are nearest-rank: each one did occur."""

    mean_ms: Measured = Field(description="arithmetic mean")
    p50_ms: Measured = Field(description="median")
    p90_ms: Measured = Field(description="null below 10 runs")
    p99_ms: Measured = Field(description="null below 100 runs")
    p99_9_ms: Measured = Field(description="null below 1,000 runs")
    max_ms: Measured = Field(description="the slowest run")


class Deadline(Model):
    """A deadline from the contract."""

    percentile: Percentile = Field(description="the percentile that it holds for")
    ms: float = Field(description="milliseconds")


class LatencyFacts(Model):
    """One engine's latency at batch 1, one image at a time."""

    warmup: int = Field(description="runs before the measurement, not kept")
    runs: int = Field(description="runs measured")
    total: Percentiles = Field(description="from the image in memory to the prediction: what deadlines hold for")
    stages: dict[str, Percentiles] = Field(
        default_factory=dict, description="preprocess, inference, postprocess: the disjoint parts of the total"
    )
    float_total: Percentiles | None = Field(
        None, description="total of the float network on the same engine, measured just before"
    )
    deadlines: tuple[Deadline, ...] = Field((), description="the contract's deadlines for this engine")
    samples_ms: tuple[float, ...] = Field(description="the total of every run, in order")


class Misses(Model):
    """Images held against one deadline; a dropped image has missed it."""

    deadline_ms: float = Field(description="milliseconds from the image's scheduled arrival")
    missed: int = Field(description="images that missed it, dropped ones included")
    rate: Interval = Field(description="share of images that missed it; exact by the binomial distribution")


class MachineState(Model):
    """What the machine did during the measurement, as far as it tells."""

    governors: tuple[str, ...] = Field((), description="of the CPU's clocks, each once: performance, powersave ...")
    power_mode: str | None = Field(None, description="of a Jetson, as nvpmodel calls it")
    clocks_mhz: dict[str, Range] = Field(default_factory=dict, description="cpu, GPU -> what was seen")
    temperatures_c: dict[str, Range] = Field(
        default_factory=dict, description="sensor -> what was seen, degrees Celsius"
    )
    load_average: Range | None = Field(None, description="runnable processes, mean of a minute")


class SpeedupFacts(Model):
    """An engine timed in turns with the float network on the same engine, without pre- and post-processing."""

    before_ms: float = Field(description="median of the float network")
    after_ms: float = Field(description="median of the compressed one")
    ratio: Interval = Field(description="median of the ratio of each turn, with exact bounds, each by itself")


class ScenarioFacts(Model):
    """One engine in one scenario; latencies count from an image's scheduled arrival, so that waiting is in them."""

    engine: str = Field(description="the engine")
    scenario: Scenario = Field(description="one image after the other, a camera's rate, or several cameras")
    end_to_end: bool = Field(True, description="from the image in memory to the prediction; else the engine alone")
    rate_hz: float | None = Field(None, description="of a camera; null where images follow one another")
    cameras: int = Field(1, description="how many")
    queue: Literal["newest", "every"] | None = Field(
        None, description="what happens to waiting images: the newest of each camera is taken, or every one"
    )
    background_load: int = Field(0, description="processes that kept the CPU busy meanwhile")
    warmup: int = Field(description="images before the measurement, not kept")
    percentiles: dict[str, Interval] = Field(
        description="p50, p90, p99, p99.9 in milliseconds with their bounds by order statistics; null where images are "
        "too few, or so many were dropped"
    )
    mean_ms: Measured = Field(description="arithmetic mean")
    max_ms: Measured = Field(description="the slowest")
    jitter_ms: Measured = Field(None, description="standard deviation of the latency")
    misses: tuple[Misses, ...] = Field((), description="for each deadline of the contract")
    confidence: float = Field(0.95, description="of each bound by itself, 0-1")
    stages: dict[str, Percentiles] = Field(default_factory=dict, description="the disjoint parts of an image's time")
    arrivals_s: tuple[float, ...] = Field(description="scheduled arrival of every image that was processed, from 0")
    samples_ms: tuple[float, ...] = Field(description="the latency of each of them")
    dropped_s: tuple[float, ...] = Field((), description="scheduled arrival of every image that was dropped")
    machine: MachineState | None = Field(None, description="what the machine did meanwhile")
    throttled: tuple[str, ...] = Field((), description="signs that the machine slowed itself down, a line each")
    peak_memory_mb: Measured = Field(None, description="the most that the process held")
    energy_j: dict[str, float] = Field(
        default_factory=dict, description="of the whole measurement, joules by what counted them"
    )

    @model_validator(mode="after")
    def _every_sample_has_its_arrival(self) -> ScenarioFacts:
        if len(self.arrivals_s) != len(self.samples_ms):
            raise ValueError(
                f"samples_ms: expected one for each of {len(self.arrivals_s)} arrivals, got {len(self.samples_ms)}"
            )
        return self
