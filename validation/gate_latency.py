"""Deadlines of a contract held against what scenarios measured: one check for each figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from avcompress.contract import LatencyTerm, SpeedupTerm
from avcompress.spec import Check
from validation.latency import CONFIDENCE, MISS_RATE, ScenarioResult, Speedup, term_figures


def latency_checks(
    term: LatencyTerm, results: Mapping[str, ScenarioResult], confidence: float = CONFIDENCE
) -> Iterator[Check]:
    """The percentile and the rate of misses that a term limits, of its engine's results by scenario."""
    absent = "not measured: this engine did not run here; add it to the target's engines"
    for figure in term_figures(term, results.get(term.scenario), confidence):
        low, high = (None if math.isnan(bound) else bound for bound in (figure.low, figure.high))
        yield Check(
            line_name(term, figure.name),
            figure.value,
            "<=",
            figure.limit,
            figure.unit,
            low=low,
            high=high,
            decide=term.decide,
            note=figure.note if results else absent,
            engine=term.engine,
        )


def speedup_check(term: SpeedupTerm, found: Speedup | None) -> Check:
    """How many times as fast as the float network an engine is; None where the two were not timed in turns."""
    name = f"speed-up @ {term.engine}"
    if found is None:
        absent = "not measured: the float network was not built for this engine here; run the recipe with it"
        return Check(name, math.nan, ">=", term.min, "×", note=absent, decide=term.decide, engine=term.engine)
    return Check(name, found.ratio, ">=", term.min, "×", found.low, found.high, decide=term.decide, engine=term.engine)


def line_name(term: LatencyTerm, figure: str) -> str:
    """How a contract's line on a figure, a percentile or the rate of misses, is called."""
    what = f"{figure} of {term.deadline_ms:g} ms" if figure == MISS_RATE else figure
    scenario = "" if term.scenario == "single_stream" else f", {term.scenario}"
    return f"{what}{scenario} @ {term.engine}"
