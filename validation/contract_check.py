"""What of a contract can be seen to be wrong before the work: names that nobody measures, samples that are too few."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from avcompress.contract import AccuracyTerm, Contract, LatencyTerm, Measure, Validation
from avcompress.spec import RecipeError
from validation.comparison import EVERYWHERE
from validation.gate_accuracy import match_names, require_name
from validation.latency import hardest_claim


def check_contract(contract: Contract, metric_names: Iterable[str], measure: Measure) -> None:
    """Find out before the work what would fail after it.

    Raises RecipeError when a term names an unknown metric, or a percentile or a rate of misses that `measure.runs`
    cannot support.
    """
    known = tuple(metric_names)
    for index, accuracy in enumerate(contract.accuracy):
        require_name(accuracy.metric, known, f"contract.accuracy[{index}].metric", "a metric of this task")
    for index, latency in enumerate(contract.latency):
        _check_runs(latency, measure, f"contract.latency[{index}]")


def check_slices(contract: Contract, slices: Iterable[str], settings: Validation) -> None:
    """Raise RecipeError when a term names a slice that neither the labels nor the corruptions that are asked for tell.

    `slices` are those of the labels, by name.
    """
    names = [name for name in slices if name != EVERYWHERE] + corruption_slices(settings)
    for index, term in enumerate(contract.accuracy):
        if term.slice is not None and not match_names(term.slice, [EVERYWHERE, *names]):
            raise RecipeError(f"contract.accuracy[{index}].slice: {_unknown(term, names)}")


def corruption_slices(settings: Validation) -> list[str]:
    """The slices that the corruptions are, by name: fog:3."""
    return [f"{name}:{severity}" for name, severities in settings.corruptions.items() for severity in severities]


def _unknown(term: AccuracyTerm, names: list[str]) -> str:
    wanted = str(term.slice)
    there = ", ".join(names) or "none"
    close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.75)
    hint = f"did you mean {close[0]!r}?" if close else "mend it, tag the data, or ask for it in `validation`"
    return f"expected a slice of this data ({there}), got {wanted!r}; {hint}"


def _check_runs(term: LatencyTerm, measure: Measure, key: str) -> None:
    what, needed = hardest_claim(term)
    proven = " to be proven_kept" if term.decide == "proven_kept" else ""
    if needed is None:
        raise RecipeError(f"{key}: expected a limit that measurements can reach, got {what}{proven}; raise it")
    if measure.runs < needed:
        raise RecipeError(f"measure.runs: expected at least {needed} for {what}{proven}, got {measure.runs}; raise it")
