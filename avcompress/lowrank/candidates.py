"""What a layer could become: methods and ranks by the recipe's rule, with the error that each leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avcompress.lowrank.fitting import FINE, QUICK, Aim, fitted
from avcompress.lowrank.forms import FORMS, Floats, Ranks, check_ranks, composed, factor_macs, suitable
from avcompress.lowrank.layers import Layer
from avcompress.lowrank.moments import Seen
from avcompress.lowrank.ranks import evbmf_ranks, path
from avcompress.lowrank.surgery import Factorization
from avcompress.recipe_lowrank import Energy, Factorize, Method, Speedup

_POINTS = 4
"""Ranks of a method that are measured, where latency decides."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to take a layer apart.

    Attributes:
        into: method, ranks and factors.
        macs: multiply-accumulates of its factors.
        error: share of the variance of the layer's output that is lost, on images that it was not fitted to; of the
            weights' squares, where they are what is approximated.
    """

    into: Factorization
    macs: int
    error: float


def find_candidates(layer: Layer, seen: Seen | None, settings: Factorize) -> tuple[Candidate, ...] | str:
    """The ways to take a layer apart that the recipe allows and that save multiply-accumulates, or why there are none.

    Args:
        layer: to take apart.
        seen: its moments; None: its weights are approximated.
        settings: the recipe's.

    Raises RecipeError for a rank larger than the layer allows.
    """
    methods = [method for method in suitable(layer.shape) if settings.method in {"auto", method}]
    if not methods:
        return f"{settings.method} does not suit its kernel of {layer.shape[2]}x{layer.shape[3]}"
    task = _Task(layer, seen)
    match settings.rank:
        case Energy():
            lost = 1 - settings.rank.energy
            found = [task.smallest(method, lost, settings.align) for method in methods]
            reason = f"no rank that keeps {settings.rank.energy:.4g} saves multiply-accumulates"
        case Speedup():
            lost = settings.rank.max_error
            found = [each for method in methods for each in task.spread(method, lost, settings.align)]
            reason = f"no rank that loses at most {lost:.4g} saves multiply-accumulates"
        case "evbmf":
            weight = layer.weight / layer.scale[:, None, None, None]
            found = [task.of(method, evbmf_ranks(method, weight, settings.align)) for method in methods]
            reason = "EVBMF's ranks save no multiply-accumulates"
        case int() | tuple():
            ranks = settings.rank if isinstance(settings.rank, tuple) else (settings.rank,)
            ranks = ranks * 2 if methods[0] == "tucker2" and len(ranks) == 1 else ranks
            check_ranks(f"factorize.rank, layer {layer.name!r}", methods[0], layer.shape, ranks)
            found = [task.of(methods[0], ranks)]
            reason = "the rank saves no multiply-accumulates"
    saving = [each for each in found if each is not None and each.macs < layer.macs]
    return _undominated(saving) or reason


def _undominated(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other one beats in all of nodes, multiply-accumulates and error."""

    def beats(one: Candidate, other: Candidate) -> bool:
        nodes = len(FORMS[one.into.method]) <= len(FORMS[other.into.method])
        return nodes and one.macs <= other.macs and one.error < other.error

    return tuple(each for each in candidates if not any(beats(other, each) for other in candidates))


class _Task:
    """A layer and what its factors are held against."""

    def __init__(self, layer: Layer, seen: Seen | None) -> None:
        self.layer = layer
        self.aim = Aim(layer.weight, None if seen is None else seen.learned.spread)
        self.judge = Aim(layer.weight, None if seen is None else seen.held_out.spread)
        self.mean = None if seen is None or not layer.has_bias else seen.learned.mean

    def of(self, method: Method, ranks: Ranks, sweeps: int = FINE) -> Candidate:
        """The candidate of one method and rank."""
        factors = fitted(self.aim, method, ranks, sweeps)
        approximation = composed(method, factors)
        macs = factor_macs(method, self.layer.shape, ranks, self.layer.extent)
        into = Factorization(self.layer, method, ranks, factors, self._shift(approximation))
        return Candidate(into, macs, self.judge.error(approximation))

    def _shift(self, approximation: Floats) -> Floats | None:
        """What the approximation lacks in the mean, as the layer has it."""
        if self.mean is None:
            return None
        lacking = (self.layer.weight - approximation).reshape(len(approximation), -1) @ self.mean
        return (lacking / self.layer.scale).astype(np.float32)

    def smallest(self, method: Method, lost: float, align: int) -> Candidate | None:
        """The candidate of the smallest rank that loses at most so much; None where there is none."""
        steps = path(method, self.layer.weight, self.layer.extent, align)
        low, high = 0, len(steps)
        while low < high:
            middle = (low + high) // 2
            if self.of(method, steps[middle], QUICK).error <= lost:
                high = middle
            else:
                low = middle + 1
        return self.of(method, steps[low]) if low < len(steps) else None

    def spread(self, method: Method, lost: float, align: int) -> list[Candidate]:
        """Some candidates that lose at most so much, from the smallest rank to the largest that saves."""
        steps = path(method, self.layer.weight, self.layer.extent, align)
        places = np.geomspace(1, max(len(steps), 1), _POINTS).round().astype(int) - 1
        found = [self.of(method, steps[place]) for place in dict.fromkeys(places.tolist()) if steps]
        return [each for each in found if each.error <= lost]
