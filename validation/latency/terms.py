"""A contract's deadline held against what was measured: the figures, their bounds, and what a rule takes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from avcompress.contract import LatencyTerm, Percentile
from avcompress.spec import Decide
from validation.latency.bounds import CONFIDENCE, miss_rate_bounds, runs_for_bound
from validation.latency.measuring import ScenarioResult
from validation.latency.values import PERMILLE, RUNS_NEEDED, Latency

MISS_RATE = "miss rate"


@dataclass(frozen=True)
class TermFigure:
    """One figure that a term limits from above.

    Attributes:
        name: p50, p90, p99, p99.9, or `miss rate`.
        value: the estimate; NaN where the images were too few for it, infinite where so many were dropped.
        low: a lower bound, with the confidence that was asked for; NaN where the images are too few.
        high: an upper bound, likewise.
        measured: which of the three the term's rule holds against the limit; NaN never keeps it.
        limit: the most that is allowed.
        unit: ms; empty for a rate, 0-1.
        note: one line where there is no figure or something is to be known about it; else empty.
    """

    name: str
    value: float
    low: float
    high: float
    measured: float
    limit: float
    unit: Literal["ms", ""]
    note: str = ""


def term_figures(
    term: LatencyTerm, result: ScenarioResult | None, confidence: float = CONFIDENCE
) -> tuple[TermFigure, ...]:
    """What a term asks for, measured: its percentile, its rate of misses, or both; dropped images miss every deadline.

    point takes the estimate, proven_kept the upper bound, unless_proven_broken the lower one. A figure that the images
    are too few for is NaN under every rule.
    """
    latency = result.all_images if result else Latency(())
    figures = []
    if term.max_miss_rate is not None:
        figures.append(_miss_rate(term, term.max_miss_rate, latency, confidence))
    if term.percentile is not None or term.max_miss_rate is None:
        figures.insert(0, _percentile(term, term.percentile or "p99", latency, confidence))
    return tuple(figures)


class Claim(NamedTuple):
    """What of a term takes most images to decide, in words, and how many; None: no number is enough."""

    what: str
    runs: int | None


def hardest_claim(term: LatencyTerm, confidence: float = CONFIDENCE) -> Claim:
    """The figure of a term that takes most images.

    A percentile's estimate takes 1 / (1 - p) of them, and so does a rate of misses. proven_kept takes as many as give
    an upper bound at all: log(1 - confidence) / log(p).
    """
    fractions: dict[str, float] = {}
    if term.percentile is not None or term.max_miss_rate is None:
        fractions[term.percentile or "p99"] = PERMILLE[term.percentile or "p99"] / 1000
    if term.max_miss_rate is not None:
        fractions[f"a miss rate of {term.max_miss_rate:g}"] = 1 - term.max_miss_rate
    claims = [Claim(what, _runs(fraction, term.decide, confidence)) for what, fraction in fractions.items()]
    return max(claims, key=lambda claim: math.inf if claim.runs is None else claim.runs)


def runs_needed(term: LatencyTerm, confidence: float = CONFIDENCE) -> int | None:
    """The least number of images with which a term can be decided; None: no number is enough."""
    return hardest_claim(term, confidence).runs


def _runs(fraction: float, decide: Decide, confidence: float) -> int | None:
    if fraction <= 0:
        return 1
    if decide == "proven_kept":
        return max(runs_for_bound(fraction, confidence), _runs_for_estimate(fraction)) if fraction < 1 else None
    return _runs_for_estimate(fraction)


def _runs_for_estimate(fraction: float) -> int:
    # Rounded, because 1 / (1 - 0.999) is 999.9999999999991. No misses at all: nothing short of all images can show it.
    return math.ceil(round(1 / (1 - fraction), 6)) if fraction < 1 else 1


def _percentile(term: LatencyTerm, name: Percentile, latency: Latency, confidence: float) -> TermFigure:
    runs, value = len(latency.samples_ms), latency.percentile(name)
    low, high = latency.bounds(name, confidence)
    needed, bound = RUNS_NEEDED[name], runs_for_bound(PERMILLE[name] / 1000, confidence)
    note = ""
    if runs < needed:
        low, high = math.nan, math.nan
        note = _too_few(runs, needed, name)
    elif term.decide == "proven_kept" and runs < bound:
        note = _too_few(runs, bound, f"an upper bound of {name} ({confidence:.0%})")
    elif math.isinf(value):
        note = f"too many of {runs} images were dropped: their {name} is a result that never came"
    return TermFigure(name, value, low, high, _chosen(term.decide, value, low, high), term.deadline_ms, "ms", note)


def _miss_rate(term: LatencyTerm, limit: float, latency: Latency, confidence: float) -> TermFigure:
    runs, misses = len(latency.samples_ms), latency.missed(term.deadline_ms)
    needed = _runs(1 - limit, "point", confidence) or 1
    if runs < needed:
        note = _too_few(runs, needed, f"a rate of {limit:g}")
        return TermFigure(MISS_RATE, math.nan, math.nan, math.nan, math.nan, limit, "", note)
    low, high = miss_rate_bounds(misses, runs, confidence)
    note = f"{misses} of {runs} images later than {term.deadline_ms:g} ms" if misses else ""
    if term.decide == "proven_kept" and not misses and high > limit:
        bound = _runs(1 - limit, term.decide, confidence)
        proof = f"{bound} images without a miss" if bound else "no number of images"
        note = f"no miss in {runs} images; {proof} would prove a rate of {limit:g}"
    value = misses / runs
    return TermFigure(MISS_RATE, value, low, high, _chosen(term.decide, value, low, high), limit, "", note)


def _too_few(runs: int, needed: int, what: str) -> str:
    if not runs:
        return "not measured: no image was timed"
    return f"not measured: {runs} images cannot support {what}; measure {needed} or more (`measure.runs`, --runs)"


def _chosen(decide: Decide, value: float, low: float, high: float) -> float:
    match decide:
        case "point":
            return value
        case "proven_kept":
            return high
        case "unless_proven_broken":
            return low
