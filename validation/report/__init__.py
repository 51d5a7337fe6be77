"""The report's models; `validation.report.facts` makes them of what was measured."""

from validation.report.accuracy import (
    Accuracy,
    ChangeFacts,
    ClassChanges,
    ComparisonFacts,
    Histogram,
    OperatingPoint,
    PixelChanges,
    SliceFacts,
    WorstImage,
)
from validation.report.latency import (
    Deadline,
    LatencyFacts,
    MachineState,
    Misses,
    Percentiles,
    ScenarioFacts,
)
from validation.report.layers import DriftFacts, DriftLayer, LayerCounts, LayerFacts, LayerTime
from validation.report.model import (
    Candidate,
    ContractLine,
    EngineFacts,
    Machine,
    Provenance,
    Report,
    SourceFacts,
    StageFacts,
    report_json,
)
from validation.report.update import DomainFacts, UpdateFacts
from validation.report.values import Interval, Measured, Range

__all__ = [
    "Accuracy",
    "Candidate",
    "ChangeFacts",
    "ClassChanges",
    "ComparisonFacts",
    "ContractLine",
    "Deadline",
    "DomainFacts",
    "DriftFacts",
    "DriftLayer",
    "EngineFacts",
    "Histogram",
    "Interval",
    "LatencyFacts",
    "LayerCounts",
    "LayerFacts",
    "LayerTime",
    "Machine",
    "MachineState",
    "Measured",
    "Misses",
    "OperatingPoint",
    "Percentiles",
    "PixelChanges",
    "Provenance",
    "Range",
    "Report",
    "ScenarioFacts",
    "SliceFacts",
    "SourceFacts",
    "StageFacts",
    "UpdateFacts",
    "WorstImage",
    "report_json",
]
