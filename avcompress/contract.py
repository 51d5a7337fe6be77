"""What a result must keep, and how it is measured: deadlines and limits, overall, by class and by slice."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from avcompress.frozen import Fraction, Model
from avcompress.spec import Decide

Percentile = Literal["p50", "p90", "p99", "p99.9"]
Scenario = Literal["single_stream", "constant_stream", "multi_camera"]
"""After MLPerf: one image when the last one is done; images at a camera's rate; several cameras at that rate."""

UNBOUNDED = ("false_alarms",)
"""Metrics that may be greater than 1."""
LESS_IS_BETTER = ("false_alarms", "ece")
"""Metrics, also by class, of which a network should have little."""


class AccuracyTerm(Model):
    """A limit on one metric, overall or in a slice, absolute or against the reference.

    A drop is how much worse the network is than the reference: lower, or higher where less is better (false_alarms,
    ece).
    """

    metric: str = Field(
        description="AP, AP50, AP_small ..., precision, recall, false_alarms, ece; mIoU, F1, boundary_f ...; or of a "
        "class: AP/CLASS, recall/CLASS, IoU/CLASS; AP/* for the worst class"
    )
    slice: str | None = Field(
        None,
        description="only there: size:small, distance:far, brightness:dark, TAG:VALUE, fog:3; distance:* for the worst "
        "one; default: everywhere",
    )
    min: NonNegativeFloat | None = Field(None, description="the least that the network must reach")
    max: NonNegativeFloat | None = Field(None, description="the most that it may reach, where less is better")
    max_drop: NonNegativeFloat | None = Field(
        None, description="how much worse than the reference it may be, in the metric's own unit"
    )
    max_drop_relative: Fraction | None = Field(None, description="the same, as a share of the reference's value")
    min_gain: NonNegativeFloat | None = Field(
        None, description="how much better than the reference it must be, in the metric's own unit; 0: as good"
    )
    decide: Decide = Field("point", description="what of the confidence interval must keep the limit")

    @model_validator(mode="after")
    def _asks_for_something(self) -> AccuracyTerm:
        asked = (self.min, self.max, self.max_drop, self.max_drop_relative, self.min_gain)
        if all(limit is None for limit in asked):
            raise ValueError("expected `min`, `max`, `max_drop`, `max_drop_relative` or `min_gain`, got none of them")
        if self.metric.partition("/")[0] not in UNBOUNDED and any(limit is not None and limit > 1 for limit in asked):
            raise ValueError(f"expected limits of {self.metric} in 0-1, got one above; write 28 % as 0.28")
        return self


class LatencyTerm(Model):
    """A deadline on the time from the image in memory to the prediction: on a percentile, or on the rate of misses."""

    percentile: Percentile | None = Field(
        None, description="which share of images must keep it; default: p99, where no `max_miss_rate` is given"
    )
    deadline_ms: PositiveFloat = Field(description="milliseconds from image to prediction")
    max_miss_rate: Fraction | None = Field(None, description="share of images that may miss the deadline")
    scenario: Scenario = Field("single_stream", description="how images come: `measure` says at which rate")
    engine: Literal["ort", "openvino", "trt"] = Field("openvino", description="the engine it is measured on")
    decide: Decide = Field(
        "point", description="what of the confidence interval, exact by the binomial distribution, must keep the limit"
    )


class SpeedupTerm(Model):
    """A floor on how many times as fast as the float network the result is, both timed in turns on one engine."""

    min: PositiveFloat = Field(description="1.5: the float network takes one and a half times as long")
    engine: Literal["ort", "openvino", "trt"] = Field("openvino", description="the engine it is measured on")
    decide: Decide = Field("point", description="what of the confidence interval must keep the limit")


class DriftTerm(Model):
    """A limit on how far each layer's output is from the float network's."""

    min_sqnr_db: float = Field(description="signal to noise of every layer's output, in dB")
    layers: tuple[str, ...] = Field(("*",), description="fnmatch patterns on the names of the layers that must keep it")


class Int8Term(Model):
    """A floor on the share of multiply-accumulates that are planned in INT8, 0-1."""

    min_macs: Fraction = Field(description="the least share, 0-1")


class Contract(Model):
    """What the result must keep. Accuracy terms hold on every engine that runs on this machine."""

    accuracy: tuple[AccuracyTerm, ...] = Field((), description="limits on metrics")
    latency: tuple[LatencyTerm, ...] = Field((), description="deadlines")
    speedup: tuple[SpeedupTerm, ...] = Field((), description="how much faster than the float network it must be")
    drift: DriftTerm | None = Field(None, description="how far layers may be from the float network")
    int8: Int8Term | None = Field(None, description="how much of the network must be INT8")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Contract:
        if not (self.accuracy or self.latency or self.speedup or self.drift or self.int8):
            raise ValueError("expected at least one term, got none: a contract that asks for nothing cannot be kept")
        return self

    @model_validator(mode="after")
    def _can_be_kept(self) -> Contract:
        for least, most in itertools.product(self.accuracy, repeat=2):
            if least.min is None or most.max is None or least.min <= most.max:
                continue
            if _is_never_less(most, least):
                first, second = (f"{t.metric} of {t.slice}" if t.slice else t.metric for t in (least, most))
                raise ValueError(
                    f"expected limits that one network can keep, got {first} >= {least.min:g} and "
                    f"{second} <= {most.max:g}; mend one of them"
                )
        return self


_MEANS = {"AP": "AP", "IoU": "mIoU"}
"""What is the mean of a figure over all classes."""


def _is_never_less(one: AccuracyTerm, than: AccuracyTerm) -> bool:
    """Whether a figure cannot be below another: no class, mean or band is below the worst class or band.

    Where less is better, the worst is the one that none is above.
    """
    worst, other = (one, than) if one.metric.partition("/")[0] in LESS_IS_BETTER else (than, one)
    family, _, part = worst.metric.partition("/")
    is_of_worst = part == "*" and (other.metric.startswith(f"{family}/") or other.metric == _MEANS.get(family))
    kind, _, band = (worst.slice or "").partition(":")
    is_there = other.slice == worst.slice or (band == "*" and (other.slice or "").startswith(f"{kind}:"))
    return is_there and (is_of_worst or other.metric == worst.metric)


class Measure(Model):
    """How latency is sampled."""

    warmup: NonNegativeInt = Field(20, description="runs before the first one that counts")
    runs: PositiveInt = Field(200, description="runs that count; p99 needs 100, p99.9 needs 1000")
    rate_hz: PositiveFloat = Field(10.0, description="of a camera, in the scenarios with cameras")
    cameras: PositiveInt = Field(1, description="how many, in the scenario multi_camera")
    queue: Literal["newest", "every"] = Field(
        "newest", description="what a busy engine does with waiting images: takes each camera's newest, or every one"
    )
    phases: Literal["spread", "same"] = Field(
        "spread", description="of several cameras: evenly over the period, or all at one moment, as a trigger does"
    )
    background_load: NonNegativeInt = Field(0, description="processes that keep the CPU busy meanwhile")


Severity = Annotated[int, Field(ge=1, le=5)]


class Validation(Model):
    """How accuracy is judged: where, and how sure."""

    slices: tuple[str, ...] | None = Field(
        None,
        description="size, distance, occlusion, truncation, brightness, position, or a tag of the data; default: all "
        "that the labels tell",
    )
    corruptions: dict[str, tuple[Severity, ...]] = Field(
        default_factory=dict, description="name -> severities 1-5; each is a slice, as fog:3, and costs a pass"
    )
    distance_m: tuple[PositiveFloat, ...] = Field((20.0, 40.0), description="borders of the bands of distance")
    brightness: tuple[NonNegativeFloat, ...] = Field(
        (70.0, 170.0), description="borders of the bands of an image's mean luma, 0-255"
    )
    resamples: PositiveInt = Field(1000, description="of the bootstrap over images")
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(0.95, description="of the intervals, two-sided")
    seed: NonNegativeInt = Field(0, description="of the bootstrap and of the corruptions")
