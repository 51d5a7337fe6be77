"""What a recipe says of precisions that are chosen by measurement, instead of layers that are named."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from avcompress.frozen import Fraction, Model

Quantized = Literal["int8", "fp8", "int8 weights"]


class Mixed(Model):
    """Which layers `ptq` quantizes, and which stay float: chosen by what each loses and takes, then held to a floor."""

    formats: Annotated[tuple[Quantized, ...], Field(min_length=1)] | None = Field(
        None,
        description="what layers may be quantized to; the network gets the best of them, one alone; int8 weights: as "
        "`weight_only`, which computes in float; default: the format of `ptq`",
    )
    metric: str | None = Field(
        None,
        description="as in contract.accuracy: of the choices that keep it on data.selection the fastest is taken, by "
        "measuring some; default: what loses least is taken, by the numbers alone",
    )
    max_drop_relative: Fraction = Field(
        0.001, description="how far the metric may fall, as a share of the float network's: 0.001 keeps 99.9 %"
    )
    held_by: Literal["movement", "metric"] = Field(
        "movement",
        description="when a tried choice is kept: metric: its own is within the fall, chance included; movement: "
        "and what its answers' movement costs, by all tried choices, is, too",
    )
    min_macs: Fraction = Field(0.0, description="share of the multiply-accumulates that is quantized, at least")
    speedup: Annotated[float, Field(gt=1)] | None = Field(
        None, description="how many times as fast as the float network a choice shall be, by the times below"
    )
    sensitivity: Literal["fisher", "output", "hessian", "metric"] = Field(
        "fisher",
        description="what a group of layers loses: output and metric run the network with it alone quantized, metric "
        "on all of data.selection; fisher and hessian tell all groups by gradients",
    )
    workers: PositiveInt = Field(1, description="processes that measure it; the numbers are the same by any")
    images: PositiveInt = Field(64, description="calibration images that tell what is lost")
    times: Literal["measured", "macs", "roofline"] = Field(
        "measured",
        description="what layers take: measured on an engine of this machine; macs: as many as are not quantized, "
        "those of 16 bits by half, where no target is at hand; roofline: estimated by what is known of `machine`",
    )
    machine: str | None = Field(None, description="of times: roofline, a name of `avcompress targets`")
    times_file: str | None = Field(
        None, description="of `avcompress profile`, run on the target, in their place; relative to the data root"
    )
    backend: Literal["ort", "openvino", "trt"] | None = Field(
        None,
        description="which of target.engines times and the metric are measured on; default: the first that runs here "
        "and is no reference",
    )
    method: Literal["program", "greedy", "evolution"] = Field(
        "program",
        description="program: an integer program, proven best by the numbers; greedy: single changes; evolution: "
        "networks of chance and descent, each measured, for losses that do not add up",
    )
    tries: PositiveInt = Field(8, description="choices whose metric is measured, at most")
    generations: PositiveInt = Field(6, description="of evolution, of 16 networks each")
    seed: int = Field(0, ge=0, description="of evolution, and of the signs of fisher and hessian")

    @model_validator(mode="after")
    def _has_a_goal(self) -> Mixed:
        if self.metric is None and self.speedup is None and not self.min_macs:
            raise ValueError("expected metric, min_macs or speedup, got none of them; name what the choice must keep")
        if self.metric is not None and self.speedup is not None:
            raise ValueError("expected metric or speedup, got both; with a metric, the fastest choice is taken anyway")
        if self.sensitivity == "metric" and self.metric is None:
            raise ValueError("expected a metric for sensitivity: metric, got none; name it, or take output")
        if (self.times == "roofline") != (self.machine is not None):
            raise ValueError("expected times: roofline and machine, got one of them; give both, or leave out both")
        counted = self.min_macs > 0 or (self.times == "macs" and self.times_file is None)
        if counted and "int8 weights" in (self.formats or ()):
            raise ValueError(
                "expected times and no min_macs for int8 weights, which compute in float, got macs to count; measure "
                "times, or leave int8 weights out"
            )
        if self.speedup is not None and self.times == "macs" and self.times_file is None:
            raise ValueError("expected measured times with speedup, got macs, which are no time; use min_macs instead")
        return self
