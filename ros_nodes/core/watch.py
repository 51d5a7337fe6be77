"""The deadline on board: misses in a row lead to the fallback engine, time kept there leads back; pure.

Hysteresis: the way back takes many batches with room to spare, and twice as many each time that the primary engine
fails soon after a return; so the two never alternate quickly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_MOST_DOUBLINGS = 5


@dataclass(frozen=True)
class Limits:
    """What is a miss, and what follows from several.

    Attributes:
        deadline_ns: from the arrival of a batch's first frame to its last published result.
        fall_back_after: misses in a row.
        return_after: batches in a row on the fallback that take at most `return_share` of the deadline.
        has_fallback: whether there is an engine to fall back to.
        hang_ns: after which an inference is not waited for any more.
    """

    deadline_ns: int
    fall_back_after: int = 5
    return_after: int = 100
    return_share: float = 0.8
    has_fallback: bool = False
    hang_ns: float = math.inf


@dataclass(frozen=True)
class Watch:
    """What has been seen of the deadline, by `anew` since the primary began, and what was counted before that, too.

    Attributes:
        on_fallback: the engine that the next batch goes to.
        misses: in a row, on the engine of now.
        easy: batches in a row with room to spare, on the fallback.
        served: batches on the engine of now.
        came_back: whether the primary has been taken again after the fallback.
        doublings: of `return_after`.
        total_misses: of all batches.
        fallbacks: how often the fallback was taken.
        returns: how often the primary was taken again.
        took_ns: the last batch; None before the first.
        late_since_ns: when the first of the misses in a row was seen; None while the deadline is kept.
        late_until_ns: when the last of them was seen, or its batch was out.
    """

    on_fallback: bool = False
    misses: int = 0
    easy: int = 0
    served: int = 0
    came_back: bool = False
    doublings: int = 0
    total_misses: int = 0
    fallbacks: int = 0
    returns: int = 0
    took_ns: int | None = None
    late_since_ns: int | None = None
    late_until_ns: int = 0


def anew(watch: Watch) -> Watch:
    """Of a primary that begins: what was counted goes on, all else is forgotten."""
    return Watch(total_misses=watch.total_misses, fallbacks=watch.fallbacks, returns=watch.returns)


def resume(watch: Watch, before: Watch) -> Watch:
    """Of a primary that another one has stood in for: it goes on where it was, without a miss in a row."""
    return replace(
        anew(watch),
        on_fallback=before.on_fallback,
        easy=before.easy,
        served=before.served,
        came_back=before.came_back,
        doublings=before.doublings,
    )


def batches_to_return(watch: Watch, limits: Limits) -> int:
    """Batches with room to spare that the way back takes; `watch.easy` of them are done."""
    return limits.return_after << watch.doublings


def miss(watch: Watch, limits: Limits, now_ns: int) -> Watch:
    """After a batch whose deadline passed before it was published, whether it has been by now or not."""
    missed = replace(
        watch,
        misses=watch.misses + 1,
        easy=0,
        served=watch.served + 1,
        total_misses=watch.total_misses + 1,
        late_since_ns=now_ns if watch.late_since_ns is None else watch.late_since_ns,
        late_until_ns=now_ns,
    )
    if not limits.has_fallback or watch.on_fallback or missed.misses < limits.fall_back_after:
        return missed
    soon = watch.came_back and missed.served <= batches_to_return(watch, limits)
    doublings = min(watch.doublings + 1, _MOST_DOUBLINGS) if soon else 0
    return replace(missed, on_fallback=True, misses=0, served=0, fallbacks=watch.fallbacks + 1, doublings=doublings)


def finish(watch: Watch, now_ns: int, took_ns: int) -> Watch:
    """After a batch that was counted as a miss while it lasted, and is out by now."""
    return replace(watch, took_ns=took_ns, late_until_ns=now_ns)


def observe(watch: Watch, limits: Limits, now_ns: int, took_ns: int) -> Watch:
    """After a batch whose last result was published at `now_ns`, `took_ns` after its first frame came."""
    timed = replace(watch, took_ns=took_ns)
    if took_ns > limits.deadline_ns:
        return miss(timed, limits, now_ns)
    has_room = took_ns <= limits.return_share * limits.deadline_ns
    kept = replace(
        timed,
        misses=0,
        easy=watch.easy + 1 if watch.on_fallback and has_room else 0,
        served=watch.served + 1,
        late_since_ns=None,
    )
    if kept.easy < batches_to_return(kept, limits):
        return kept
    return replace(kept, on_fallback=False, easy=0, served=0, came_back=True, returns=watch.returns + 1)
