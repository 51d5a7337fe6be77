"""The report: what a run did, measured and decided. Its JSON layout is versioned and described in docs/report.md."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field, model_validator

from avcompress.frozen import Model
from avcompress.spec import Decide, Sense
from validation.report.accuracy import Accuracy, ChangeFacts, ComparisonFacts, OperatingPoint
from validation.report.latency import LatencyFacts, ScenarioFacts, SpeedupFacts
from validation.report.layers import DriftFacts, LayerCounts, LayerFacts, LayerTime
from validation.report.smaller import SmallerFacts
from validation.report.update import UpdateFacts
from validation.report.values import Measured


class Machine(Model):
    """The machine that the engines ran on."""

    cpu: str = Field(description="model name of the processor")
    cores: int = Field(description="cores that this process may use")
    os: str = Field(description="operating system and kernel")
    python: str = Field(description="version of Python")


class SourceFacts(Model):
    """One set of images."""

    format: str = Field(description="coco, kitti, masks, images or scenes; several where sources were listed")
    images: int = Field(description="images used")
    skipped: tuple[str, ...] = Field((), description="names of the images left out because they could not be read")
    fingerprint: str = Field(description="hash over the names and contents of what was used")


class StageFacts(Model):
    """One step of the run."""

    name: str = Field(description="what the step does")
    seconds: float = Field(description="wall time")
    log: tuple[str, ...] = Field((), description="what it did, a line each")


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
    margin: Measured = Field(description="how far inside the limit what decides is, same unit; negative when broken")
    decide: Decide = Field(
        "point", description="what must keep the limit: the estimate, or an end of its confidence interval"
    )
    low: Measured = Field(None, description="the low end of the measurement's confidence interval, where it has one")
    high: Measured = Field(None, description="the high end")
    passed: bool = Field(description="whether the limit is kept")
    engine: str = Field("", description="the engine that it is about; empty where it is about none")
    metric: str = Field("", description="of a line on accuracy, the metric")
    slice: str = Field("", description="of a line on accuracy, the slice; empty: everywhere")
    domain: str = Field(
        "",
        description="of an update, whose images it is measured on, beside the version before; empty: the validation "
        "images, beside the reference",
    )
    note: str = Field("", description="why it fails or could not be measured, where more is known than the figures")


class Provenance(Model):
    """What it takes to measure the same again."""

    command: str = Field("", description="the command line")
    seeds: dict[str, int] = Field(default_factory=dict, description="seeds by what they are of")
    networks: dict[str, str] = Field(default_factory=dict, description="sha256 of the networks by role")
    baseline: str = Field("", description="the stored baseline that was the reference, and its hash")


class Candidate(Model):
    """One of several results that the same recipe could give."""

    name: str = Field(description="what distinguishes it")
    accuracy: Measured = Field(description="the main metric")
    latency_ms: Measured = Field(description="of the contract's percentile and engine")
    size_bytes: int | None = Field(None, description="of the engine")
    on_front: bool = Field(description="no other candidate is at least as good in all and better in one")
    chosen: bool = Field(False, description="the one that this report is about")
    passed: bool | None = Field(None, description="whether it keeps the contract; null where that was not judged")


class Report(Model):
    """Everything that a run did, measured and decided."""

    schema_version: Literal[2] = Field(2, description="version of this layout; a change that breaks readers raises it")
    recipe: str = Field(description="the recipe's name")
    task: Literal["detection", "segmentation"] = Field(description="what the network does")
    created: AwareDatetime = Field(description="when the run ended, ISO 8601 with its time zone")
    passed: bool = Field(description="the verdict: every line of the contract is kept, and there is one")
    contract: tuple[ContractLine, ...] = Field(description="the contract, line by line")
    notes: tuple[str, ...] = Field((), description="what the reader should know: skipped images or engines, warnings")
    reference: str = Field("", description="what the network is held against; empty: the float network")
    accuracy: Accuracy = Field(description="metrics of the reference and of each engine")
    comparisons: dict[str, ComparisonFacts] = Field(
        default_factory=dict, description="by engine: figures with intervals, paired drops, slices, corruptions"
    )
    operating_point: OperatingPoint | None = Field(None, description="of detection")
    changes: dict[str, ChangeFacts] = Field(default_factory=dict, description="by engine: what was lost and gained")
    latency: dict[str, LatencyFacts] = Field(description="by engine that ran here")
    scenarios: tuple[ScenarioFacts, ...] = Field((), description="latency by engine and scenario, with every sample")
    smaller: SmallerFacts | None = Field(
        None, description="what made the float network smaller; null where nothing did"
    )
    speedups: dict[str, SpeedupFacts] = Field(
        default_factory=dict, description="by engine that was timed in turns with the float network"
    )
    update: UpdateFacts | None = Field(None, description="of an update: what it was made from, and what it changed")
    layers: tuple[LayerFacts, ...] = Field(description="every weighted layer")
    drift: DriftFacts | None = Field(None, description="error by layer")
    layer_times: dict[str, tuple[LayerTime, ...]] = Field(
        default_factory=dict, description="by engine that tells: the time of every layer, in its order"
    )
    engines: tuple[EngineFacts, ...] = Field(description="engines built or skipped, in the recipe's order")
    candidates: tuple[Candidate, ...] = Field((), description="results to choose from, where there were several")
    stages: tuple[StageFacts, ...] = Field(description="every step of the run, in order")
    sources: dict[str, SourceFacts] = Field(
        description="images by role: calibration, validation, train; of an update, those of its name, too"
    )
    inputs: dict[str, str] = Field(description="resolved paths of the input files and folders, by key of the recipe")
    machine: Machine = Field(description="where it ran")
    versions: dict[str, str] = Field(description="of this tool and of the libraries it used")
    provenance: Provenance | None = Field(None, description="command, seeds, hashes")

    @property
    def beside(self) -> str:
        """What the reference is called in a word or two."""
        return "reference" if self.reference else "float"

    @model_validator(mode="after")
    def _verdict_follows_from_the_contract(self) -> Report:
        follows = bool(self.contract) and all(line.passed for line in self.contract)
        if self.passed != follows:
            raise ValueError(f"passed: expected {follows}, which the contract's lines say, got {self.passed}")
        return self


def report_json(report: Report) -> str:
    """The report as JSON text, in the order of docs/report.md."""
    return report.model_dump_json(indent=2) + "\n"
