"""What options bought: differences between trials that differ in one choice. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from avcompress.search.trials.choices import Value
from avcompress.search.trials.record import Record, slower_ms


@dataclass(frozen=True)
class Effect:
    """One option in the place of another.

    Attributes:
        choice: its name.
        of, to: the options' numbers.
        accuracy, latency_ms, size_bytes: what was gained, as a mean over pairs; None where it was not measured, as a
            latency is not but in turns.
        pairs: of trials that differ in nothing else.
    """

    choice: str
    of: Value
    to: Value
    accuracy: float | None
    latency_ms: float | None
    size_bytes: float | None
    pairs: int


def effects(records: Sequence[Record]) -> tuple[Effect, ...]:
    """Of every option that was tried in another one's place, all else being equal; options of a choice in their order.

    Ranges have values instead of options: they are left out.
    """
    found: dict[tuple[str, Value, Value], list[tuple[Record, Record]]] = {}
    for one, other in combinations(records, 2):
        choice = only_difference(one, other)
        if choice is not None and isinstance(one.suggestion[choice], int):
            before, after = sorted((one, other), key=lambda record: record.suggestion[choice])
            key = choice, before.suggestion[choice], after.suggestion[choice]
            found.setdefault(key, []).append((before, after))
    return tuple(_effect(*key, pairs) for key, pairs in sorted(found.items()))


def beside(best: Record, records: Sequence[Record]) -> tuple[Effect, ...]:
    """What each choice of a trial bought: from every other option that was tried with all else equal, to its own."""
    found = []
    for other in records:
        choice = only_difference(best, other)
        if choice is not None:
            of, to = other.suggestion[choice], best.suggestion[choice]
            found.append(_effect(choice, of, to, [(other, best)]))
    return tuple(sorted(found, key=lambda effect: (effect.choice, effect.of)))


def only_difference(one: Record, other: Record) -> str | None:
    """The choice in which two trials differ, with what its options lead to; None where they differ in more, or none."""
    names = sorted(set(_different(one.suggestion, other.suggestion)), key=len)
    if not names or not all(name == names[0] or name.startswith(f"{names[0]}=") for name in names):
        return None
    return names[0] if names[0] in one.suggestion and names[0] in other.suggestion else None


def _different(one: Mapping[str, Value], other: Mapping[str, Value]) -> Iterator[str]:
    yield from (name for name in {*one, *other} if one.get(name) != other.get(name))


def _effect(choice: str, of: Value, to: Value, pairs: Sequence[tuple[Record, Record]]) -> Effect:
    def mean(name: str) -> float | None:
        values = [(getattr(before.figures, name), getattr(after.figures, name)) for before, after in pairs]
        known = [after - before for before, after in values if before is not None and after is not None]
        return fmean(known) if known else None

    times = [gained for before, after in pairs if (gained := slower_ms(after, before)) is not None]
    latency_ms = fmean(times) if times else None
    return Effect(choice, of, to, mean("accuracy"), latency_ms, mean("size_bytes"), len(pairs))
