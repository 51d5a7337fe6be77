"""Exact bounds from the binomial distribution: of a rate of misses, and of a percentile by order statistics.

Every bound is one-sided: it holds with the confidence that is given, by itself. So a lower and an upper bound of 95 %
are the ends of a two-sided interval of 90 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable

CONFIDENCE = 0.95
"""Of each bound, where nobody asks for another."""

_TINY = 1e-300
_PRECISION = 1e-15
_MOST_TERMS = 200_000


def miss_rate_bounds(misses: int, runs: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The lower and the upper Clopper-Pearson bound of a rate, 0-1; NaN without runs.

    Source: Clopper and Pearson, Biometrika 26 (1934) 404-413.
    """
    if runs == 0:
        return math.nan, math.nan
    error = 1 - confidence
    low = _solve(lambda p: at_least(misses, runs, p), error) if misses else 0.0
    high = _solve(lambda p: at_least(misses + 1, runs, p), confidence) if misses < runs else 1.0
    return low, high


def percentile_ranks(runs: int, fraction: float, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """The ranks, from 1 on, of the samples that bound a percentile from below and above; None where none does.

    The r-th smallest of n is an upper bound when fewer than r samples lie below the percentile: Bin(n, p) < r.

    Source: David and Nagaraja, Order Statistics, 7.1.
    """
    low = _last(runs, lambda rank: at_least(rank, runs, fraction) >= confidence)
    # The upper rank is one above the last that is not an upper bound yet.
    high = 1 + _last(runs, lambda rank: 1 - at_least(rank, runs, fraction) < confidence)
    return low or None, high if high <= runs else None


def runs_for_bound(fraction: float, confidence: float = CONFIDENCE) -> int:
    """The least number of runs whose slowest is an upper bound of the percentile: 1 - p^n >= confidence.

    It is also the least number of runs without any miss that proves a rate of misses of at most 1 - p.
    """
    runs = max(1, math.ceil(math.log(1 - confidence) / math.log(fraction)) - 1)
    while 1 - fraction**runs < confidence:
        runs += 1
    return runs


def at_least(count: int, runs: int, rate: float) -> float:
    """The probability that a binomial variable of so many runs at this rate is `count` or more.

    It is the regularized incomplete beta function I_rate(count, runs - count + 1).

    Source: DLMF 8.17.5; its continued fraction 8.17.22 by Lentz's method.
    """
    if count <= 0:
        return 1.0
    if count > runs or rate <= 0:
        return 0.0
    if rate >= 1:
        return 1.0
    a, b = float(count), float(runs - count + 1)
    if rate > (a + 1) / (a + b + 2):  # where the fraction of the complement converges faster
        return 1 - _front(b, a, 1 - rate) * _fraction(b, a, 1 - rate)
    return _front(a, b, rate) * _fraction(a, b, rate)


def _front(a: float, b: float, x: float) -> float:
    """x^a (1-x)^b / (a B(a, b)), in logarithms: its factors under- and overflow."""
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / a


def _fraction(a: float, b: float, x: float) -> float:
    """1 / (1 + d1 / (1 + d2 / (1 + ...))), by Lentz's method."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _solve(rising: Callable[[float], float], target: float) -> float:
    """The rate in 0-1 where a rising function meets its target, by bisection down to the last bit."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return high


def _last(runs: int, holds: Callable[[int], bool]) -> int:
    """The last rank in 1-runs for which something holds that holds for all before it; 0 where it never does."""
    low, high = 0, runs
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
