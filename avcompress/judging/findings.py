"""What was measured of networks on one trial, put together, and what the contract is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from avcompress.judging.measuring import Measured
from avcompress.spec import LayerPlan
from avcompress.trial import Trial
from avcompress.watch import Watch
from engines.layer_times import LayerTimes
from validation.changes import Changes, find_changes
from validation.comparison import Comparison, compare_each
from validation.drift import LayerDrift
from validation.gates import Evidence
from validation.pictures import Picture
from validation.predictions import Predictions
from validation.truth import Truth
from validation.worst import Compared, worst_pictures


@dataclass(frozen=True)
class Findings:
    """All that was measured.

    Attributes:
        reference: what the networks are held against.
        engines: by engine that ran here.
        comparisons: of each of these engines with the reference.
        drift: of the quantized network's layers; empty where it was not measured.
        times: by layer, of the engines that tell.
        layers: what was planned for every weighted layer.
        precisions: engine -> layer -> what it runs in, of the engines that tell.
        mismatches: engine -> layers that are not as planned, of the engines that are held to the plan.
    """

    trial: Trial
    truth: Truth
    reference: Measured
    engines: Mapping[str, Measured]
    comparisons: Mapping[str, Comparison]
    drift: tuple[LayerDrift, ...] = ()
    times: Mapping[str, LayerTimes] = field(default_factory=dict)
    layers: tuple[LayerPlan, ...] = ()
    precisions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    mismatches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def changes(self) -> dict[str, Changes]:
        """What each engine found that the reference did not, and the other way round."""
        before, threshold = self.reference.predictions, self.trial.threshold
        return {
            name: find_changes(self.truth, before, self.engines[name].predictions, threshold)
            for name in self.comparisons
        }

    @property
    def evidence(self) -> Evidence:
        """What the contract is held against: latency is end to end."""
        return Evidence(
            comparisons=self.comparisons,
            latency={name: measured.latency for name, measured in self.engines.items() if measured.latency},
            speedups={name: each.speedup for name, each in self.engines.items() if each.speedup is not None},
            drift=self.drift,
            layers=self.layers,
            mismatches=self.mismatches,
        )


def compare_all(
    watch: Watch, trial: Trial, truth: Truth, reference: Measured, engines: Mapping[str, Measured]
) -> dict[str, Comparison]:
    """Every engine beside the reference, as a step: nothing runs, all follows from labels and predictions."""
    with watch.step(f"compare with the reference, {trial.validation.resamples} resamples", reused=False):
        return compare(trial, truth, reference, engines)


def compare(trial: Trial, truth: Truth, reference: Measured, engines: Mapping[str, Measured]) -> dict[str, Comparison]:
    """Every engine beside the reference."""
    return compare_each(
        truth,
        reference.predictions,
        {name: measured.predictions for name, measured in engines.items()},
        trial.validation,
        trial.threshold,
        {name: _pairs(reference, measured) for name, measured in engines.items()},
    )


def pictures(findings: Findings, beside: str) -> tuple[Picture, ...]:
    """The images that changed most for the worse, by the first engine that was compared, rather one that was timed.

    `beside` is what the reference is called.
    """
    compared = list(findings.comparisons)
    timed = [name for name in compared if findings.engines[name].latency]
    for name in (timed or compared)[:1]:
        before, after = findings.reference.predictions, findings.engines[name].predictions
        return worst_pictures(findings.trial.source, Compared(before, after, findings.changes[name]), (beside, name))
    return ()


def _pairs(reference: Measured, network: Measured) -> dict[str, tuple[Predictions, Predictions]]:
    """The corrupted sets that both have predictions on."""
    return {
        name: (reference.corrupted[name], found)
        for name, found in network.corrupted.items()
        if name in reference.corrupted
    }
