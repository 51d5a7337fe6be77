"""Turns measured values into the report's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from avcompress.spec import Check, LayerPlan, Verdict
from validation.comparison import EVERYWHERE, Comparison, Estimate, SliceResult
from validation.report.accuracy import ComparisonFacts, SliceFacts
from validation.report.latency import Deadline, LatencyFacts, Percentiles
from validation.report.layers import DriftFacts, DriftLayer, LayerFacts, LayerTime
from validation.report.model import ContractLine
from validation.report.values import Interval

if TYPE_CHECKING:
    from avcompress.contract import LatencyTerm
    from engines.layer_times import LayerTimes
    from validation.drift import LayerDrift
    from validation.latency import Latency

TOTAL = "total"  # as validation.latency names it


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
            decide=check.decide,
            low=check.low,
            high=check.high,
            passed=check.passed,
            engine=check.engine,
            metric=check.metric,
            slice=check.slice,
            domain=check.domain,
            note=check.note,
        )
        for check in verdict.checks
    )


def _margin(check: Check) -> float:
    match check.sense:
        case "<=":
            return check.limit - check.judged
        case ">=":
            return check.judged - check.limit
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


def comparison_facts(comparison: Comparison, corruptions: Collection[str] = ()) -> ComparisonFacts:
    """A comparison as the report has it; metrics by class are kept for the whole set alone, or there would be too many.

    Args:
        comparison: of one engine with the reference.
        corruptions: the names of the slices that are the whole set corrupted: fog:3.
    """
    return ComparisonFacts(
        resamples=comparison.resamples,
        confidence=comparison.confidence,
        slices=tuple(_slice(name, part, name in corruptions) for name, part in comparison.slices.items()),
    )


def _slice(name: str, part: SliceResult, corruption: bool) -> SliceFacts:
    def intervals(estimates: Mapping[str, Estimate]) -> dict[str, Interval]:
        return {
            metric: interval(found) for metric, found in estimates.items() if name == EVERYWHERE or "/" not in metric
        }

    return SliceFacts(
        name=name,
        images=part.images,
        objects=part.objects,
        corruption=corruption,
        reference=intervals(part.reference),
        network=intervals(part.network),
        drop=intervals(part.drop),
    )


def interval(estimate: Estimate) -> Interval:
    """An estimate as the report has it."""
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high)


def drift_facts(layers: Iterable[LayerDrift], bound_db: float | None = None) -> DriftFacts:
    """Error by layer, and the first layer that is below the bound."""
    found = tuple(layers)
    beyond = (layer.layer for layer in found if bound_db is not None and not layer.sqnr_db >= bound_db)
    return DriftFacts(
        bound_db=bound_db,
        first_beyond=next(beyond, None),
        layers=tuple(
            DriftLayer(
                layer=layer.layer,
                tensor=layer.tensor,
                sqnr_db=layer.sqnr_db,
                cosine=layer.cosine,
                max_error=layer.max_error,
                amplitude=layer.amplitude,
            )
            for layer in found
        ),
    )


def layer_times(times: LayerTimes) -> tuple[LayerTime, ...]:
    """One engine's layers in its order; what the runtime added stands for no node of the network."""
    return tuple(
        LayerTime(
            name=layer.layer,
            nodes=(layer.layer, *layer.fused) if layer.own else (),
            ms=layer.median_ms,
            precision=layer.precision,
        )
        for layer in times.layers
    )
