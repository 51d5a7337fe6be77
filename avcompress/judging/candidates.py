"""The results that a run could have ended with: each engine with the float and with the compressed network. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from avcompress.judging.findings import Findings
from avcompress.recipe import Detection
from avcompress.spec import Verdict
from avcompress.trial import Trial
from validation.comparison import EVERYWHERE
from validation.report import Candidate


def find_candidates(findings: Findings, verdict: Verdict, sizes: Mapping[str, int | None]) -> tuple[Candidate, ...]:
    """Every engine whose latency was measured, with both networks; `sizes` in bytes by engine."""
    found = tuple(_measured(findings, verdict, sizes))
    return tuple(each.model_copy(update={"on_front": _on_front(each, found)}) for each in found)


def _measured(findings: Findings, verdict: Verdict, sizes: Mapping[str, int | None]) -> Iterator[Candidate]:
    metric = "AP" if isinstance(findings.trial.task, Detection) else "mIoU"
    for engine, measured in findings.engines.items():
        comparison = findings.comparisons.get(engine)
        timed = measured.latency.get("single_stream")
        if comparison is None or timed is None:
            continue
        percentile = _percentile(findings.trial, engine)
        everywhere = comparison.slices[EVERYWHERE]
        if measured.float_latency is not None:
            yield Candidate(
                name=f"float, {engine}",
                accuracy=everywhere.reference[metric].value,
                latency_ms=measured.float_latency.served.percentile(percentile),
                on_front=False,
            )
        yield Candidate(
            name=engine,
            accuracy=everywhere.network[metric].value,
            latency_ms=timed.served.percentile(percentile),
            size_bytes=sizes.get(engine),
            on_front=False,
            chosen=True,
            passed=all(check.passed for check in verdict.checks if check.engine in {engine, ""}),
        )


def _percentile(trial: Trial, engine: str) -> str:
    """The one of the engine's deadline, or the median."""
    named = (term.percentile or "p99" for term in trial.contract.latency if term.engine == engine)
    return next(named, "p50")


def _on_front(one: Candidate, others: Sequence[Candidate]) -> bool:
    """Whether no other candidate is at least as accurate and as fast, and better in one of the two."""
    mine = _figures(one)
    return not any(
        all(a >= b for a, b in zip(_figures(other), mine, strict=True)) and _figures(other) != mine for other in others
    )


def _figures(one: Candidate) -> tuple[float, float]:
    accuracy = -math.inf if one.accuracy is None else one.accuracy
    return accuracy, -math.inf if one.latency_ms is None else -one.latency_ms
