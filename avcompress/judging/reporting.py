"""Gathers what was done, measured and decided into the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

from avcompress import __version__
from avcompress.judging.candidates import find_candidates
from avcompress.judging.findings import Findings
from avcompress.judging.measuring import Measured, skipped
from avcompress.spec import Verdict
from avcompress.steps import Step
from avcompress.trial import Trial
from validation.comparison import EVERYWHERE
from validation.contract_check import corruption_slices
from validation.gates import explain, judge
from validation.latency import TOTAL
from validation.machine import describe_machine, library_versions
from validation.report import (
    Accuracy,
    EngineFacts,
    LatencyFacts,
    OperatingPoint,
    Provenance,
    Report,
    ScenarioFacts,
    SmallerFacts,
    SourceFacts,
    StageFacts,
    UpdateFacts,
)
from validation.report.change_facts import change_facts
from validation.report.facts import (
    comparison_facts,
    contract_lines,
    drift_facts,
    latency_facts,
    layer_facts,
    layer_times,
)
from validation.report.latency_facts import Asked, scenario_facts, speedup_facts


@dataclass(frozen=True)
class Background:
    """What a report says beside the measurements.

    Attributes:
        engines: built, opened or skipped.
        passed: the steps that were taken.
        logs: what steps said, by the step's name.
        sources: images by role.
        inputs: paths by the recipe's key.
        notes: what people should know.
        reference: what the network is held against; empty: the float network.
        smaller: of a float network that was made smaller.
        provenance: what it takes to measure the same again.
        update: of an update: what it was made from, and what it changed.
    """

    engines: tuple[EngineFacts, ...]
    passed: tuple[Step, ...]
    sources: Mapping[str, SourceFacts]
    logs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reference: str = ""
    smaller: SmallerFacts | None = None
    provenance: Provenance | None = None
    update: UpdateFacts | None = None


def compose_report(
    findings: Findings, background: Background, verdict: Verdict | None = None
) -> tuple[Report, Verdict]:
    """The verdict, and the report that holds it; another verdict than the contract's where one is given."""
    trial = findings.trial
    verdict = verdict or judge(trial.contract, findings.evidence)
    drift = trial.contract.drift
    report = Report(
        recipe=trial.name,
        task=trial.task.kind,
        created=datetime.now(timezone.utc),
        passed=verdict.passed,
        contract=contract_lines(verdict),
        notes=(*background.notes, *explain(verdict)),
        reference=background.reference,
        accuracy=_accuracy(findings),
        comparisons={
            name: comparison_facts(found, corruption_slices(trial.validation))
            for name, found in findings.comparisons.items()
        },
        operating_point=_operating_point(findings),
        changes={name: change_facts(found) for name, found in findings.changes.items()},
        scenarios=tuple(_scenarios(findings)),
        latency={name: _latency(trial, name, each) for name, each in findings.engines.items() if each.latency},
        update=background.update,
        smaller=background.smaller,
        speedups={name: speedup_facts(each.speedup) for name, each in findings.engines.items() if each.speedup},
        layers=layer_facts(findings.layers, findings.precisions),
        drift=drift_facts(findings.drift, drift.min_sqnr_db if drift else None) if findings.drift else None,
        layer_times={name: layer_times(times) for name, times in findings.times.items()},
        candidates=find_candidates(findings, verdict, {each.name: each.size_bytes for each in background.engines}),
        engines=background.engines,
        stages=_stages(background),
        sources=dict(background.sources),
        inputs=dict(background.inputs),
        machine=describe_machine(),
        versions={"avcompress": __version__, **library_versions()},
        provenance=background.provenance,
    )
    return report, verdict


def source_facts(trial: Trial, findings: Findings, kind: str) -> SourceFacts:
    """The validation images of a trial."""
    left_out = skipped(trial, findings.truth)
    return SourceFacts(
        format=kind, images=len(findings.truth.names), skipped=left_out, fingerprint=trial.source.fingerprint
    )


def skipped_note(role: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """One line on the images that were left out; none where all could be read."""
    if not names:
        return ()
    more = " …" if names[5:] else ""
    return (f"{role}: {len(names)} unreadable images were skipped: {', '.join(names[:5])}{more}",)


def _accuracy(findings: Findings) -> Accuracy:
    reference: dict[str, float] = {}
    engines = {}
    for name, comparison in findings.comparisons.items():
        everywhere = comparison.slices[EVERYWHERE]
        reference = {metric: found.value for metric, found in everywhere.reference.items()}
        engines[name] = {metric: found.value for metric, found in everywhere.network.items()}
    return Accuracy(reference=reference, engines=engines)


def _operating_point(findings: Findings) -> OperatingPoint | None:
    told = {name: found.thresholds for name, found in findings.comparisons.items() if found.thresholds}
    threshold = findings.trial.threshold
    if threshold is None:
        return None
    return OperatingPoint(threshold=threshold, restoring={name: found.restoring for name, found in told.items()})


def _latency(trial: Trial, engine: str, measured: Measured) -> LatencyFacts:
    """One image after the other, as the report has had it from the first; `scenarios` has all of them."""
    found = measured.latency["single_stream"]
    terms = [term for term in trial.contract.latency if term.engine == engine and term.scenario == "single_stream"]
    beside = measured.float_latency.served if measured.float_latency else None
    return latency_facts({**found.stages, TOTAL: found.served}, trial.measure.warmup, terms, beside)


def _scenarios(findings: Findings) -> Iterator[ScenarioFacts]:
    for name, measured in findings.engines.items():
        for scenario, result in measured.latency.items():
            terms = [
                term for term in findings.trial.contract.latency if (term.engine, term.scenario) == (name, scenario)
            ]
            yield scenario_facts(name, result, Asked(tuple(term.deadline_ms for term in terms)))


def _stages(background: Background) -> tuple[StageFacts, ...]:
    """Every step with its time; what the network's log says goes with the step that said it."""
    return tuple(
        StageFacts(name=step.title, seconds=step.seconds, log=background.logs.get(step.name, ()))
        for step in background.passed
    )
