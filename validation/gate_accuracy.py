"""Accuracy terms of a contract held against a comparison: one check for each limit, and for each engine."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from avcompress.contract import AccuracyTerm
from avcompress.spec import Check, RecipeError, Sense
from validation.comparison import EVERYWHERE, Comparison, Estimate, SliceResult, less_is_better
from validation.detection import BY_SIZE

NO_ENGINE = "no engine"
SHOWN = 3
AT_THRESHOLD = frozenset({"precision", "recall", "false_alarms", "F1", "ece"})
"""Metrics of detection that depend on the score from which a detection is believed."""
MOVED = 0.01
"""Of the score threshold: a smaller difference is not worth a word."""
SAME_RECALL = 0.01
"""Where the precision is the reference's again: with less recall than that, more has happened than a move of scores."""
NOWHERE = Estimate(math.nan, math.nan, math.nan)


class _Place(NamedTuple):
    """What is measured, and where."""

    metric: str
    slice: str


@dataclass(frozen=True)
class _Limit:
    """One limit of a term: on the metric itself, its drop, its drop as a share of the reference's, or its gain."""

    kind: Literal["value", "drop", "relative", "gain"]
    sense: Sense
    value: float


def accuracy_checks(term: AccuracyTerm, comparisons: Mapping[str, Comparison]) -> Iterator[Check]:
    """Every limit of a term on every engine that ran; on `no engine`, and failing, where none did.

    A term on a pattern (AP/*, distance:*) is one check: of the worst that the pattern matches.
    """
    if not comparisons:
        reason = "no engine of this recipe runs on this machine; add `openvino` or `ort` to the target"
        for limit in _limits(term):
            yield _unmeasured(term, limit, NO_ENGINE, reason)
    for engine, comparison in comparisons.items():
        for limit in _limits(term):
            yield _worst(term, limit, engine, comparison)


def accuracy_check(metric: str, engine: str, where: str | None = None) -> str:
    """The name of the check of a metric's floor, or ceiling, on an engine."""
    return f"{_placed(metric, where)} @ {engine}"


def drop_check(metric: str, engine: str, where: str | None = None, relative: bool = False) -> str:
    """The name of the check of how much worse a metric is than the reference's on an engine."""
    what = "rise" if less_is_better(metric) else "drop"
    return f"{_placed(metric, where)} {'relative ' if relative else ''}{what} @ {engine}"


def gain_check(metric: str, engine: str, where: str | None = None) -> str:
    """The name of the check of how much better a metric is than the reference's on an engine."""
    what = "fall" if less_is_better(metric) else "gain"
    return f"{_placed(metric, where)} {what} @ {engine}"


def is_pattern(name: str) -> bool:
    """Whether a term's metric or slice stands for several."""
    return "*" in name


def match_names(wanted: str, names: Iterable[str]) -> list[str]:
    """The names that a term's metric or slice stands for, in their order."""
    if is_pattern(wanted):
        # Brackets and question marks are part of names here.
        pattern = wanted.replace("[", "[[]").replace("?", "[?]")
        return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    return [name for name in names if name == wanted]


def require_name(wanted: str, names: Iterable[str], key: str, what: str) -> None:
    """Raise RecipeError, with the nearest name that there is, where `wanted` stands for none of the names."""
    known = list(names)
    if match_names(wanted, known):
        return
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(wanted.lower(), by_lower, n=1, cutoff=0.0)
    hint = f"did you mean {by_lower[close[0]]!r}?" if close else "none was measured"
    raise RecipeError(f"{key}: expected {what}, got {wanted!r}; {hint}")


def _placed(metric: str, where: str | None) -> str:
    return metric if where in {None, EVERYWHERE} else f"{metric} in {where}"


def _limits(term: AccuracyTerm) -> Iterator[_Limit]:
    if term.min is not None:
        yield _Limit("value", ">=", term.min)
    if term.max is not None:
        yield _Limit("value", "<=", term.max)
    if term.max_drop is not None:
        yield _Limit("drop", "<=", term.max_drop)
    if term.max_drop_relative is not None:
        yield _Limit("relative", "<=", term.max_drop_relative)
    if term.min_gain is not None:
        yield _Limit("gain", ">=", term.min_gain)


def _check(term: AccuracyTerm, limit: _Limit, engine: str, found: Estimate, place: _Place) -> Check:
    match limit.kind:
        case "value":
            name = accuracy_check(term.metric, engine, term.slice)
        case "gain":
            name = gain_check(term.metric, engine, term.slice)
        case _:
            name = drop_check(term.metric, engine, term.slice, limit.kind == "relative")
    low, high = (None if math.isnan(end) else end for end in (found.low, found.high))
    return Check(
        name,
        found.value,
        limit.sense,
        limit.value,
        low=low,
        high=high,
        decide=term.decide,
        engine=engine,
        metric=place.metric,
        slice="" if place.slice == EVERYWHERE else place.slice,
    )


def _unmeasured(term: AccuracyTerm, limit: _Limit, engine: str, reason: str) -> Check:
    check = _check(term, limit, engine, NOWHERE, _Place(term.metric, term.slice or EVERYWHERE))
    return replace(check, note=f"not measured: {reason}")


def _worst(term: AccuracyTerm, limit: _Limit, engine: str, comparison: Comparison) -> Check:
    """The check of a limit on an engine: of what the term names, or of the worst where that is a pattern."""
    where = term.slice or EVERYWHERE
    slices = match_names(where, comparison.slices)
    if not slices:
        return _unmeasured(term, limit, engine, f"no slice {where} is in the data; there are: {_list(comparison)}")
    found = {
        place: _check(term, limit, engine, _judged(comparison.slices[place.slice], place.metric, limit), place)
        for place in (_Place(m, s) for s in slices for m in match_names(term.metric, comparison.slices[s].network))
    }
    several = is_pattern(term.metric) or is_pattern(where)
    # What the labels do not hold breaks no pattern, but a pattern that matches nothing else is not kept.
    checks = measured = {place: check for place, check in found.items() if not math.isnan(check.measured)}
    if several and term.decide == "unless_proven_broken":
        # Nothing is proven of what has no interval.
        checks = {place: check for place, check in checks.items() if not math.isnan(check.judged)} or checks
    if not checks:
        return _unmeasured(term, limit, engine, "the validation labels hold no such object")
    worst = min(checks, key=lambda place: _room(checks[place]))
    check = checks[worst]
    if math.isnan(check.judged):
        of = f" of {_placed(*worst)}" if several else ""
        by_size = worst.metric in BY_SIZE and worst.slice != EVERYWHERE
        why = "it has one in the whole set alone; " if by_size else "too few images hold it; add some, or "
        return replace(check, note=f"no interval{of}: {why}decide by the point")
    if several:
        return replace(check, note=_which(worst, checks) + _unproven(measured))
    return check if check.passed else replace(check, note=why_worse(worst.metric, worst.slice, comparison))


def _unproven(checks: Mapping[_Place, Check]) -> str:
    """What is beyond the limit as measured, though nothing is proven; a class in two images can be lost like that."""
    beyond = {place: check for place, check in checks.items() if _outside(check) > 0}
    open_ = [place for place, check in beyond.items() if math.isnan(check.judged) or check.passed]
    if not open_:
        return ""
    ranked = sorted(open_, key=lambda place: -_outside(checks[place]))
    said = ", ".join(f"{_placed(*place)} ({checks[place].measured:.4f})" for place in ranked[:SHOWN])
    more = f" and {len(ranked) - SHOWN} more" if len(ranked) > SHOWN else ""
    return f"; beyond the limit, but too few images to prove it: {said}{more}"


def _outside(check: Check) -> float:
    """How far beyond its limit the figure itself is, whatever decides."""
    return check.measured - check.limit if check.sense == "<=" else check.limit - check.measured


def _judged(result: SliceResult, metric: str, limit: _Limit) -> Estimate:
    match limit.kind:
        case "value":
            return result.network[metric]
        case "drop":
            return _rounded(result.drop[metric])
        case "gain":
            return _gained(result.drop[metric])
        case "relative":
            return _relative(result.drop[metric], result.reference[metric].value)


def _rounded(found: Estimate) -> Estimate:
    # So that a drop from 0.30 to 0.29 keeps a limit of 0.01: in binary it is 0.0100000000000000009.
    return Estimate(*(round(value, 12) for value in (found.value, found.low, found.high)))


def _gained(drop: Estimate) -> Estimate:
    """A drop seen from the other side: what was its worst end is the gain's least."""
    # From 0, not negated: no gain reads as 0, never as -0.
    return _rounded(Estimate(*(0.0 - value for value in (drop.value, drop.high, drop.low))))


def _relative(drop: Estimate, reference: float) -> Estimate:
    """A drop as a share of the reference's point estimate."""
    return _rounded(Estimate(*(_share(value, reference) for value in (drop.value, drop.low, drop.high))))


def _share(drop: float, reference: float) -> float:
    """Of nothing, no loss is 0 and any loss infinite."""
    if reference == 0:
        return 0.0 if drop <= 0 else drop * math.inf
    return drop / reference


def _room(check: Check) -> float:
    """How far inside its limit a check is; what cannot be judged is further outside than anything."""
    room = check.limit - check.judged if check.sense == "<=" else check.judged - check.limit
    return -math.inf if math.isnan(room) else room


def _which(worst: _Place, checks: Mapping[_Place, Check]) -> str:
    """What a pattern's check is of, and what else breaks the limit."""
    broken = sorted((place for place in checks if not checks[place].passed), key=lambda each: _room(checks[each]))
    others = [_placed(*place) for place in broken if place != worst]
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    also = f"; also broken: {', '.join(others[:SHOWN])}{more}" if others else ""
    return f"worst: {_placed(*worst)} ({checks[worst].measured:.4f}){also}"


def why_worse(metric: str, where: str, comparison: Comparison) -> str:
    """What is known of why a metric is worse in a slice: the classes and slices that lost most, scores that moved."""
    reasons = (_silent(where, comparison), _where_lost(_Place(metric, where), comparison), _moved(metric, comparison))
    return "; ".join(reason for reason in reasons if reason)


def _silent(where: str, comparison: Comparison) -> str:
    """Whether no detection reaches the deployed threshold; empty predictions look like that."""
    figures = comparison.slices[where].network
    seen = [figures.get(name, NOWHERE).value for name in ("recall", "false_alarms")]
    return "" if any(value != 0 for value in seen) else "nothing is detected at the deployed threshold"


def _moved(metric: str, comparison: Comparison) -> str:
    """Whether another threshold makes good what is lost at the deployed one, or what it costs."""
    found = comparison.thresholds
    if found is None or metric.partition("/")[0] not in AT_THRESHOLD:
        return ""
    if math.isnan(found.restoring):
        return "no score threshold restores the reference's precision"
    if abs(found.restoring - found.deployed) <= MOVED:
        return ""
    there = f"from {found.restoring:.3f} on the precision is the reference's again"
    recall = comparison.slices[EVERYWHERE].reference.get("recall", NOWHERE).value
    if found.recall < recall - SAME_RECALL:
        return f"{there}, but recall is {found.recall:.4f} there, not {recall:.4f}"
    return f"scores have moved: {there} (recall {found.recall:.4f}), not from {found.deployed:g} on"


def _where_lost(place: _Place, comparison: Comparison) -> str:
    """The classes and the slices that lose most, of those whose loss is proven; empty where there are none."""
    metric, where = place
    drops = comparison.slices[where].drop
    family = f"{metric.removeprefix('m')}/"  # mIoU is the mean of IoU/CLASS
    lost = {name: drop for name, drop in drops.items() if name.startswith(family)}
    if where == EVERYWHERE:
        elsewhere = {name: part.drop.get(metric, NOWHERE) for name, part in comparison.slices.items()}
        more = {name: drop for name, drop in elsewhere.items() if drop.value > drops[metric].value}
        lost |= {f"{metric} in {name}": drop for name, drop in more.items()}
    proven = sorted((name for name in lost if lost[name].low > 0), key=lambda name: -lost[name].value)
    said = ", ".join(f"{name} by {lost[name].value:.4f}" for name in proven[:SHOWN])
    what = "rose" if less_is_better(metric) else "lost"
    return f"{what} most: {said}" if said else ""


def _list(comparison: Comparison) -> str:
    return ", ".join(name for name in comparison.slices if name != EVERYWHERE) or "none"
