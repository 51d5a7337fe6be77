"""A contract held against what was measured: pure. What was not measured is NaN, and NaN never passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from avcompress.contract import Contract, DriftTerm
from avcompress.spec import Check, LayerPlan, Verdict
from validation.comparison import EVERYWHERE, Comparison
from validation.drift import LayerDrift, judge_drift
from validation.gate_accuracy import accuracy_check, accuracy_checks, drop_check, require_name
from validation.gate_latency import latency_checks, speedup_check
from validation.latency import ScenarioResult, Speedup

__all__ = ["Evidence", "accuracy_check", "drop_check", "explain", "int8_share", "judge"]

DRIFT_CHECK = "SQNR of every layer"
NO_DIFFERENCE_DB = 300.0
"""What stands for an infinite ratio: beyond what float64 can tell, and a figure that JSON knows."""


@dataclass(frozen=True)
class Evidence:
    """What was measured.

    Attributes:
        comparisons: the network beside its reference, by engine that ran here.
        latency: by engine that ran here, by scenario.
        speedups: by engine that was timed in turns with the float network.
        drift: of the quantized network's layers from the float network's; empty where nobody asked for it.
        layers: what the recipe expects of every weighted layer.
        mismatches: by engine that tells its layers' precision, the layers that are not as planned; an engine that
            does not tell is absent.
        confidence: of intervals of latency; a comparison brings its own.
    """

    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    latency: Mapping[str, Mapping[str, ScenarioResult]] = field(default_factory=dict)
    speedups: Mapping[str, Speedup] = field(default_factory=dict)
    drift: tuple[LayerDrift, ...] = ()
    layers: tuple[LayerPlan, ...] = ()
    mismatches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    confidence: float = 0.95


def judge(contract: Contract, evidence: Evidence) -> Verdict:
    """Every term of the contract as a check.

    Accuracy is checked on every engine that ran, the layers' precision on every engine that tells it. A term on an
    engine that did not run is measured as NaN, so it fails. Raises RecipeError when a term names a metric that nobody
    measures.
    """
    return Verdict(tuple(_judge(contract, evidence)))


def explain(verdict: Verdict) -> tuple[str, ...]:
    """One line for each check that fails and knows more: why it was not measured, what broke it, and what to do."""
    return tuple(f"{check.name}: {check.note}" for check in verdict.failures if check.note)


def int8_share(layers: Iterable[LayerPlan]) -> float:
    """The share of multiply-accumulates in layers that are planned as INT8, 0-1; NaN without any."""
    macs = [(layer.precision, layer.macs) for layer in layers]
    total = sum(count for _, count in macs)
    return sum(count for precision, count in macs if precision == "int8") / total if total else math.nan


def _judge(contract: Contract, evidence: Evidence) -> Iterator[Check]:
    for index, term in enumerate(contract.accuracy):
        for comparison in evidence.comparisons.values():
            names = comparison.slices[EVERYWHERE].network
            require_name(term.metric, names, f"contract.accuracy[{index}].metric", "a metric of this task")
        yield from accuracy_checks(term, evidence.comparisons)
    for deadline in contract.latency:
        yield from latency_checks(deadline, evidence.latency.get(deadline.engine, {}), evidence.confidence)
    yield from (speedup_check(term, evidence.speedups.get(term.engine)) for term in contract.speedup)
    if contract.drift is not None:
        yield _drift(contract.drift, evidence.drift)
    if contract.int8 is not None:
        share = int8_share(evidence.layers)
        note = "no weighted layer was planned; run a `ptq` stage" if math.isnan(share) else ""
        yield Check("INT8 share of MACs", share, ">=", contract.int8.min_macs, note=note)
    for engine, layers in evidence.mismatches.items():
        note = f"not as planned: {', '.join(layers)}" if layers else ""
        name = f"layers as planned @ {engine}"
        yield Check(name, float(len(layers)), "==", 0.0, "mismatches", note=note, engine=engine)


def _drift(term: DriftTerm, drifts: Sequence[LayerDrift]) -> Check:
    if not drifts:
        return Check(DRIFT_CHECK, math.nan, ">=", term.min_sqnr_db, "dB", note="not measured: no layers were compared")
    check, note = judge_drift(term, drifts)
    return replace(check, name=DRIFT_CHECK, measured=min(check.measured, NO_DIFFERENCE_DB), note=note)
