"""Which trials are best: the front of accuracy, latency and size, the winner, and what stands in the way. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from avcompress.search.trials.record import Record, slower_ms

T = TypeVar("T")
Objectives = tuple[Any, ...]
"""Each the less, the better; infinite where it was not measured."""
Prefer = Literal["latency", "size", "accuracy"]


def objectives(record: Record) -> Objectives:
    """Lost accuracy, latency and size; who was not run in turns is behind all who were, whatever its own latency."""
    figures = record.figures
    accuracy = math.inf if figures.accuracy is None else -figures.accuracy
    latency = figures.noise_ms is None, _or_infinite(figures.latency_ms)
    return accuracy, latency, _or_infinite(figures.size_bytes)


def steady(record: Record) -> Objectives:
    """What is the same however often it is measured: how far from the contract, times aside, lost accuracy, size.

    Whatever decides which trials come next sees no more than this: so the same seed gives the same trials.
    """
    accuracy, _, size = objectives(record)
    return record.miss(timed=False), accuracy, size


def outdoes(one: Record, other: Record) -> bool:
    """Whether a trial dominates another one; one that keeps the contract is outdone by such alone.

    Noise has no part in it: `equal within noise` is not transitive, and would let each trial of a row drop the next.
    """
    return one.met >= other.met and dominates(objectives(one), objectives(other))


def front_of(records: Sequence[Record]) -> tuple[Record, ...]:
    """Those that no other one outdoes; each of the rest is outdone by one of these."""
    return tuple(record for record in records if not any(outdoes(other, record) for other in records))


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else float(value)


def dominates(one: Objectives, other: Objectives) -> bool:
    """Whether one is at least as good in all, and better in something."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def front(items: Sequence[T], of: Callable[[T], Objectives]) -> tuple[T, ...]:
    """Those that no other one dominates, in their order."""
    return tuple(item for item in items if not any(dominates(of(other), of(item)) for other in items))


def promoted(records: Sequence[Record], count: int) -> tuple[Record, ...]:
    """So many of a round that go on, those not judged left out: the front, then the front of the rest, and so on."""
    waiting = [record for record in records if record.status == "judged"]
    chosen: list[Record] = []
    while waiting and len(chosen) < count:
        best = front(waiting, steady)
        chosen += sorted(best, key=lambda record: (*steady(record), record.number))
        waiting = [record for record in waiting if record not in best]
    return tuple(chosen[:count])


def winner(records: Iterable[Record], prefer: Prefer) -> Record | None:
    """The best whole trial that keeps the contract, one of the front; None where none does.

    It is the best in what is preferred; of those as good in that, the best in the next figure, and so on. Latencies
    within their noise of the least are as good.
    """
    left = front_of([record for record in records if record.share == 1 and record.met])
    for place in _ORDER[prefer] if left else ():
        best = min(left, key=lambda record: objectives(record)[place])
        left = tuple(record for record in left if _equals(record, best, place))
    return min(left, key=lambda record: record.number, default=None)


def nearest(records: Iterable[Record]) -> Record | None:
    """Of those that were judged, with all images if any were, the one that breaks least; None where none was judged."""
    judged = [record for record in records if record.status == "judged"]
    whole = [record for record in judged if record.share == 1]
    return min(whole or judged, key=lambda each: (len(each.broken), each.miss(), each.number), default=None)


def binding(records: Sequence[Record]) -> tuple[str, ...]:
    """The lines that stand in the way: those that no whole trial keeps, or else those that the nearest one breaks."""
    best = nearest(records)
    if best is None:
        return ()
    whole = [record for record in records if record.status == "judged" and record.share == best.share]
    never = [name for name in best.broken if all(name in record.broken for record in whole)]
    return tuple(never) or best.broken


_ACCURACY, _LATENCY, _SIZE = range(3)
_ORDER: Mapping[Prefer, tuple[int, ...]] = {
    "latency": (_LATENCY, _ACCURACY, _SIZE),
    "size": (_SIZE, _ACCURACY, _LATENCY),
    "accuracy": (_ACCURACY, _LATENCY, _SIZE),
}
"""Which of the objectives decides first."""


def _equals(record: Record, best: Record, place: int) -> bool:
    same = objectives(record)[place] == objectives(best)[place]
    return same or (place == _LATENCY and slower_ms(record, best) == 0)
