"""What of a comparison may not be proven worse: a check each, that only a proven loss fails. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from avcompress.judging.findings import Findings
from avcompress.spec import Check, Decide
from validation.comparison import EVERYWHERE, Estimate
from validation.drift import first_beyond
from validation.gate_accuracy import drop_check, why_worse
from validation.latency import PERMILLE, Latency

RULE: Decide = "unless_proven_broken"
TOLD = frozenset({"AP", "mIoU", "recall"})
"""Metrics that name the classes and slices whose loss is proven even where the whole is not proven worse."""


def regressions(findings: Findings, before: str, min_sqnr_db: float | None = None) -> tuple[Check, ...]:
    """One check for each metric of all classes and each percentile of the latency that has an interval, and for layers.

    Metrics by class and in slices are left out: of hundreds of intervals of 95 %, some are off by chance. The note of a
    proven loss names them.

    Args:
        findings: of two engines, `before` and the one that is compared with it.
        before: the name of what it is held against.
        min_sqnr_db: what every layer must keep; None: nothing.
    """
    checks = [*_worse(findings)]
    after = next(name for name in findings.engines if name != before)
    timed = (findings.engines[name].latency.get("single_stream") for name in (before, after))
    old, new = ((result.served if result else Latency(())) for result in timed)
    checks += _slower(old, new, after)
    if min_sqnr_db is not None:
        checks.append(_drifted(findings, min_sqnr_db))
    return tuple(checks)


def _worse(findings: Findings) -> Iterator[Check]:
    for engine, comparison in findings.comparisons.items():
        drops = comparison.slices[EVERYWHERE].drop
        for metric, drop in drops.items():
            # Nothing is proven of what rests on too few images for an interval.
            if "/" not in metric and not math.isnan(drop.low):
                check = _unless_proven(drop_check(metric, engine), drop, 0.0, engine, metric)
                said = not check.passed or metric in TOLD
                yield replace(check, note=why_worse(metric, EVERYWHERE, comparison)) if said else check


def _unless_proven(name: str, found: Estimate, limit: float, engine: str, metric: str = "", unit: str = "") -> Check:
    low, high = (None if math.isnan(end) else end for end in (found.low, found.high))
    return Check(name, found.value, "<=", limit, unit, low=low, high=high, decide=RULE, engine=engine, metric=metric)


def _slower(old: Latency, new: Latency, engine: str) -> Iterator[Check]:
    """A percentile fails where its lower bound is above the old one's upper bound."""
    for name in PERMILLE:
        (_, limit), (low, high) = old.bounds(name), new.bounds(name)
        if not math.isnan(limit) and not math.isnan(low):
            found = Estimate(new.percentile(name), low, high)
            yield _unless_proven(f"{name} @ {engine}", found, limit, engine, unit="ms")


def _drifted(findings: Findings, min_sqnr_db: float) -> Check:
    values = [drift.sqnr_db for drift in findings.drift]
    worst = math.nan if not values or any(map(math.isnan, values)) else min(*values, 300.0)
    first = first_beyond(findings.drift, min_sqnr_db)
    note = "" if first is None else f"first below: {first.layer}, {first.sqnr_db:.1f} dB"
    return Check("SQNR of every layer", worst, ">=", min_sqnr_db, "dB", note=note)
