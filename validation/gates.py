"""A contract held against what was measured: pure. What was not measured is NaN, and NaN never passes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from avcompress.contract import AccuracyTerm, Contract, LatencyTerm, Measure
from avcompress.spec import Check, LayerPlan, RecipeError, Verdict
from validation.latency import RUNS_NEEDED, Latency


@dataclass(frozen=True)
class Evidence:
    """What was measured.

    Attributes:
        reference: the float network's metrics by name.
        metrics: the compressed network's metrics by name, by engine that ran here.
        latency: by engine that ran here.
        layers: what the recipe expects of every weighted layer.
        mismatches: by engine that tells its layers' precision, the layers that are not as planned; an engine that
            does not tell is absent.
    """

    reference: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    latency: Mapping[str, Latency] = field(default_factory=dict)
    layers: tuple[LayerPlan, ...] = ()
    mismatches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class _Judged(NamedTuple):
    check: Check
    note: str = ""


def judge(contract: Contract, evidence: Evidence) -> Verdict:
    """Every term of the contract as a check.

    Accuracy is checked on every engine that ran, the layers' precision on every engine that tells it. A term on an
    engine that did not run is measured as NaN, so it fails. Raises RecipeError when a term names a metric that nobody
    measures.
    """
    return Verdict(tuple(judged.check for judged in _judge(contract, evidence)))


def explain(contract: Contract, evidence: Evidence) -> tuple[str, ...]:
    """One line for each check that could not be measured or whose layers differ: why, and what to do."""
    return tuple(f"{judged.check.name}: {judged.note}" for judged in _judge(contract, evidence) if judged.note)


def check_contract(contract: Contract, metric_names: Iterable[str], measure: Measure) -> None:
    """Find out before the work what would fail after it.

    Raises RecipeError when a term names an unknown metric, or a percentile that `measure.runs` cannot support.
    """
    known = dict.fromkeys(metric_names, math.nan)
    for accuracy in contract.accuracy:
        find_metric(known, accuracy.metric)
    for latency in contract.latency:
        percentile = latency.percentile or "p99"
        needed = RUNS_NEEDED[percentile]
        if measure.runs < needed:
            raise RecipeError(
                f"measure.runs: expected at least {needed} for {percentile}, got {measure.runs}; raise it"
            )


def find_metric(metrics: Mapping[str, float], name: str) -> float:
    """A metric by name; raises RecipeError with the nearest name that there is."""
    if name in metrics:
        return metrics[name]
    by_lower = {known.lower(): known for known in metrics}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
    hint = f"did you mean {by_lower[close[0]]!r}?" if close else "no metric was measured"
    raise RecipeError(f"contract.accuracy: expected a metric of this task, got {name!r}; {hint}")


def accuracy_check(metric: str, engine: str) -> str:
    """The name of the check of a metric's floor on an engine."""
    return f"{metric} @ {engine}"


def drop_check(metric: str, engine: str) -> str:
    """The name of the check of a metric's drop on an engine."""
    return f"{metric} drop @ {engine}"


def int8_share(layers: Iterable[LayerPlan]) -> float:
    """The share of multiply-accumulates in layers that are planned as INT8, 0-1; NaN without any."""
    macs = [(layer.precision, layer.macs) for layer in layers]
    total = sum(count for _, count in macs)
    return sum(count for precision, count in macs if precision == "int8") / total if total else math.nan


def _judge(contract: Contract, evidence: Evidence) -> Iterator[_Judged]:
    for term in contract.accuracy:
        yield from _accuracy(term, evidence)
    for deadline in contract.latency:
        yield _deadline(deadline, evidence)
    if contract.int8 is not None:
        share = int8_share(evidence.layers)
        note = "no weighted layer was planned; run a `ptq` stage" if math.isnan(share) else ""
        yield _Judged(Check("INT8 share of MACs", share, ">=", contract.int8.min_macs), note)
    for engine, names in evidence.mismatches.items():
        note = f"not as planned: {', '.join(names)}" if names else ""
        yield _Judged(Check(f"layers as planned @ {engine}", float(len(names)), "==", 0.0, "mismatches"), note)


def _accuracy(term: AccuracyTerm, evidence: Evidence) -> Iterator[_Judged]:
    reference = find_metric(evidence.reference, term.metric)
    measured = {engine: find_metric(metrics, term.metric) for engine, metrics in evidence.metrics.items()}
    for engine, value in (measured or {"no engine": math.nan}).items():
        note = _why_no_metric(bool(measured), value)
        if term.min is not None:
            yield _Judged(Check(accuracy_check(term.metric, engine), value, ">=", term.min), note)
        if term.max_drop is not None:
            # Rounded, so that a drop from 0.30 to 0.29 keeps a limit of 0.01: in binary it is 0.0100000000000000009.
            drop = round(reference - value, 12)
            yield _Judged(Check(drop_check(term.metric, engine), drop, "<=", term.max_drop), note)


def _why_no_metric(ran: bool, value: float) -> str:
    if not ran:
        return "not measured: no engine of this recipe runs on this machine; add `openvino` or `ort` to the target"
    return "not measured: the validation labels hold no such object" if math.isnan(value) else ""


def _deadline(term: LatencyTerm, evidence: Evidence) -> _Judged:
    latency = evidence.latency.get(term.engine, Latency(()))
    percentile = term.percentile or "p99"
    value = latency.percentile(percentile)
    check = Check(f"{percentile} @ {term.engine}", value, "<=", term.deadline_ms, "ms")
    if not latency.samples_ms:
        return _Judged(check, "not measured: this engine did not run here; add it to the target's engines")
    if math.isnan(value):
        runs, needed = len(latency.samples_ms), RUNS_NEEDED[percentile]
        return _Judged(check, f"not measured: {runs} runs cannot support it; set `measure.runs` to {needed} or more")
    return _Judged(check)
