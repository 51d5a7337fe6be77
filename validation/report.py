"""The report: what a run did, measured and decided. Its JSON layout is versioned and described in docs/report.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from avcompress.contract import LatencyTerm
from avcompress.frozen import Model
from avcompress.spec import Check, LayerPlan, Precision, Sense, Verdict
from engines.layer_map import as_planned
from validation.latency import TOTAL, Latency


def _null_unless_finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measured = Annotated[float | None, BeforeValidator(_null_unless_finite)]
"""A figure, or null where it could not be measured: JSON knows no NaN."""


class Machine(Model):
    """The machine that the engines ran on."""

    cpu: str = Field(description="model name of the processor")
    cores: int = Field(description="cores that this process may use")
    os: str = Field(description="operating system and kernel")
    python: str = Field(description="version of Python")


class SourceFacts(Model):
    """One set of images."""

    format: str = Field(description="coco, kitti, masks, images or scenes")
    images: int = Field(description="images used")
    skipped: tuple[str, ...] = Field((), description="names of the images left out because they could not be read")
    fingerprint: str = Field(description="hash over the names and contents of what was used")


class StageFacts(Model):
    """One step of the run."""

    name: str = Field(description="what the step does")
    seconds: float = Field(description="wall time")
    log: tuple[str, ...] = Field((), description="what it did, a line each")


class LayerFacts(Model):
    """One weighted layer, in graph order."""

    name: str = Field(description="the node's name")
    op: str = Field(description="ONNX operator")
    precision: Precision = Field(description="as planned")
    reason: str = Field(description="why")
    macs: int = Field(description="multiply-accumulates of one inference")
    engines: dict[str, str] = Field(
        default_factory=dict,
        description="precision by engine, for the engines that tell it: int8, fp8, fp32, fp16, bf16 or unknown",
    )

    @property
    def mismatches(self) -> tuple[str, ...]:
        """The engines that run this layer in another precision than planned."""
        return tuple(engine for engine, told in self.engines.items() if not as_planned(self.precision, told))


class Accuracy(Model):
    """Metrics by name, 0-1; the names are those that contracts use."""

    reference: dict[str, Measured] = Field(description="metric -> value of the float network")
    engines: dict[str, dict[str, Measured]] = Field(
        description="engine -> metric -> value of the compressed network, for the engines that ran here"
    )


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

    percentile: Literal["p50", "p90", "p99", "p99.9"] = Field(description="the percentile that it holds for")
    ms: float = Field(description="milliseconds")


class LatencyFacts(Model):
    """One engine's latency at batch 1."""

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


class LayerCounts(Model):
    """The layers of one engine, counted; bytes are what they read and write in one run."""

    products: dict[str, dict[str, int]] = Field(description="kind -> precision -> layers that multiply by weights")
    conversions: int = Field(description="layers that only change a type or a layout, or copy")
    conversion_bytes: int | None = Field(description="null where the engine does not tell shapes")
    loose_qdq: int = Field(description="layers that do nothing but quantize or dequantize: Q/DQ that did not fuse")
    loose_qdq_bytes: int | None = Field(description="null where the engine does not tell shapes")
    horizontal: int = Field(description="products that stand for several weighted ONNX nodes")
    nameless: int = Field(description="products that name no weighted ONNX node")

    @property
    def precisions(self) -> dict[str, int]:
        """The products of all kinds by precision, most first."""
        total = Counter[str]()
        for found in self.products.values():
            total.update(found)
        return dict(total.most_common())


class EngineFacts(Model):
    """One engine that was built, or skipped."""

    name: str = Field(description="the name it has in `accuracy`, `latency` and `layers`")
    backend: str = Field(description="ort, openvino, trt_rtx or trt")
    file: str | None = Field(None, description="file in the output folder; null when it was skipped")
    size_bytes: int | None = Field(None, description="size of the file")
    seconds: float | None = Field(None, description="wall time of the build")
    runs_here: bool = Field(description="whether it ran on this machine")
    note: str = Field("", description="what is special about it, or why it was skipped")
    layer_counts: LayerCounts | None = Field(None, description="its layers, for the engines that tell them")


class ContractLine(Model):
    """One line of the contract held against one measurement."""

    name: str = Field(description="what is measured, and on which engine")
    measured: Measured = Field(description="the measurement; null never passes")
    sense: Sense = Field(description="<=, >= or ==")
    limit: float = Field(description="the contract's limit")
    unit: str = Field("", description="of both; empty for shares and metrics, 0-1")
    margin: Measured = Field(description="how far inside the limit, in the same unit; negative when it is broken")
    passed: bool = Field(description="whether the limit is kept")


class Report(Model):
    """Everything that a run did, measured and decided."""

    schema_version: Literal[1] = Field(1, description="version of this layout; a change that breaks readers raises it")
    recipe: str = Field(description="the recipe's name")
    task: Literal["detection", "segmentation"] = Field(description="what the network does")
    created: AwareDatetime = Field(description="when the run ended, ISO 8601 with its time zone")
    passed: bool = Field(description="the verdict: every line of the contract is kept, and there is one")
    contract: tuple[ContractLine, ...] = Field(description="the contract, line by line")
    notes: tuple[str, ...] = Field((), description="what the reader should know: skipped images or engines, warnings")
    accuracy: Accuracy = Field(description="metrics of the float network and of each engine")
    latency: dict[str, LatencyFacts] = Field(description="by engine that ran here")
    layers: tuple[LayerFacts, ...] = Field(description="every weighted layer")
    engines: tuple[EngineFacts, ...] = Field(description="engines built or skipped, in the recipe's order")
    stages: tuple[StageFacts, ...] = Field(description="every step of the run, in order")
    sources: dict[str, SourceFacts] = Field(description="images by role: calibration, validation, train")
    inputs: dict[str, str] = Field(description="resolved paths of the input files and folders, by key of the recipe")
    machine: Machine = Field(description="where it ran")
    versions: dict[str, str] = Field(description="of this tool and of the libraries it used")

    @model_validator(mode="after")
    def _verdict_follows_from_the_contract(self) -> Report:
        follows = bool(self.contract) and all(line.passed for line in self.contract)
        if self.passed != follows:
            raise ValueError(f"passed: expected {follows}, which the contract's lines say, got {self.passed}")
        return self


def contract_lines(verdict: Verdict) -> tuple[ContractLine, ...]:
    """A verdict as lines of the report."""
    return tuple(
        ContractLine(
            name=check.name,
            measured=check.measured,
            sense=check.sense,
            limit=check.limit,
            unit=check.unit,
            margin=_margin(check),
            passed=check.passed,
        )
        for check in verdict.checks
    )


def _margin(check: Check) -> float:
    match check.sense:
        case "<=":
            return check.limit - check.measured
        case ">=":
            return check.measured - check.limit
        case "==":
            return -abs(check.measured - check.limit)


def layer_facts(layers: Iterable[LayerPlan], precisions: Mapping[str, Mapping[str, str]]) -> tuple[LayerFacts, ...]:
    """The plan beside what each engine tells: precisions are engine -> layer -> precision."""
    return tuple(
        LayerFacts(
            name=layer.name,
            op=layer.op,
            precision=layer.precision,
            reason=layer.reason,
            macs=layer.macs,
            engines={engine: told[layer.name] for engine, told in precisions.items() if layer.name in told},
        )
        for layer in layers
    )


def percentiles(latency: Latency) -> Percentiles:
    """A latency's distribution as it stands in the report."""
    return Percentiles(
        mean_ms=latency.mean,
        p50_ms=latency.p50,
        p90_ms=latency.p90,
        p99_ms=latency.p99,
        p99_9_ms=latency.p99_9,
        max_ms=latency.max,
    )


def latency_facts(
    stages: Mapping[str, Latency], warmup: int, deadlines: Iterable[LatencyTerm], float_total: Latency | None = None
) -> LatencyFacts:
    """What measure_stages gave for one engine, beside the contract's terms for this engine."""
    total = stages[TOTAL]
    return LatencyFacts(
        warmup=warmup,
        runs=len(total.samples_ms),
        total=percentiles(total),
        stages={name: percentiles(stage) for name, stage in stages.items() if name != TOTAL},
        float_total=None if float_total is None else percentiles(float_total),
        deadlines=tuple(Deadline(percentile=term.percentile or "p99", ms=term.deadline_ms) for term in deadlines),
        samples_ms=total.samples_ms,
    )


def report_json(report: Report) -> str:
    """The report as JSON text, in the order of docs/report.md."""
    return report.model_dump_json(indent=2) + "\n"
