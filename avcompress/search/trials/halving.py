"""What is tried next: the cheapest tier first, in each tier rounds of candidates, in each round more for ever fewer.

A round's candidates are all tried with the first share of images and training steps; the best of them go on to the
next share, the others are done. All that decides is `steady`, which no measured time has a part in; so the same seed
gives the same trials, and a search that was killed goes the same way again over the records that it left.

Source: successive halving, Jamieson and Talwalkar, arXiv:1502.07943.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avcompress.recipe import Recipe
from avcompress.recipe_search import Search
from avcompress.search.pool import Pool
from avcompress.search.trials.choices import Options
from avcompress.search.trials.front import promoted, steady, winner
from avcompress.search.trials.process import Runner, Saving, Task, record_of
from avcompress.search.trials.record import Record, keep_record, load_record
from avcompress.search.trials.sampler import Asked, Sampler, open_sampler
from avcompress.search.trials.space import Space
from avcompress.search.trials.tiers import at_share, tier_of
from avcompress.search.trials.writing import recipe_text
from avcompress.spec import RecipeError
from avcompress.state import step_key

TRIALS, STEPS = "trials", "steps"
"""Folders of a search: one for each trial, and the steps that they share."""
_ASKS = 32
"""Suggestions in search of one that is new."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What all trials of a search share.

    Attributes:
        out: the folder of the search.
        metric: that the contract is mainly about.
        known: what stands for all that a recipe reads.
        check: raises RecipeError for stages that do not go together.
        until: when the budget is spent, as time.time() has it.
        runner, pool: what runs a trial, and where.
        timer: times a judged trial once more, one after the other; None: the trial's own latency holds.
        tell: hears of every record, and whether it was kept from an earlier search.
    """

    space: Space
    out: Path
    data_root: Path
    metric: str
    known: Callable[[Recipe], Any]
    check: Callable[[Recipe], None]
    until: float
    runner: Runner
    pool: Pool
    tell: Callable[[Record, bool], None]
    timer: Callable[[Record, Task], Record] | None = None

    @property
    def settings(self) -> Search:
        """The section `search`."""
        return self.space.settings


@dataclass(frozen=True, eq=False)
class Candidate:
    """A suggestion that is tried."""

    number: int
    tier: int
    asked: Asked
    recipe: Recipe


@dataclass(eq=False)
class _Course:
    """How far a search has come."""

    records: list[Record] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    candidates: int = 0
    spent: bool = False


def search(ground: Ground) -> tuple[Record, ...]:
    """Try candidates until the contract is kept, all was tried, or the budget is spent; every record, in order."""
    course = _Course()
    settings = ground.settings
    for tier in tiers_of(ground.space):
        _search_tier(ground, course, tier)
        met = winner(course.records, settings.prefer) is not None
        if course.spent or (met and settings.stop == "met"):
            break
    return tuple(course.records)


def tiers_of(space: Space) -> tuple[int, ...]:
    """The tiers of cost that the candidates of a space may have, cheapest first."""
    cheapest = tier_of(space.recipe(cheapest_suggestion(space)))
    dearer = {tier for choice in space.choices if isinstance(choice, Options) for tier in choice.tiers}
    return tuple(sorted({cheapest, *(tier for tier in dearer if tier > cheapest)}))


def cheapest_suggestion(space: Space) -> dict[str, int]:
    """Of each choice the first of its cheapest options."""
    options = [choice for choice in space.choices if isinstance(choice, Options)]
    return {choice.name: choice.tiers.index(min(choice.tiers)) for choice in options}


def _search_tier(ground: Ground, course: _Course, tier: int) -> None:
    settings = ground.settings
    sampler = open_sampler(settings.sampler, settings.seed, ground.space.choices, tier)
    left = settings.trials
    while left > 0 and not course.spent:
        batch = list(_round(ground, course, sampler, min(settings.width, left)))
        if not batch:
            return
        left -= len(batch)
        last = _passes(ground, course, batch)
        for candidate in batch:
            record = last[candidate.number]
            sampler.tell(candidate.asked, steady(record) if record.status == "judged" else None)


def _round(ground: Ground, course: _Course, sampler: Sampler, count: int) -> Iterator[Candidate]:
    """So many new candidates of the sampler's tier; fewer where it finds no more."""
    found = 0
    for _ in range(_ASKS * count):
        asked = sampler.ask()
        recipe = _recipe(ground, course, asked, sampler.tier)
        if recipe is None:
            sampler.tell(asked, None)
            continue
        yield Candidate(course.candidates, sampler.tier, asked, recipe)
        course.candidates += 1
        found += 1
        if found == count:
            return


def _recipe(ground: Ground, course: _Course, asked: Asked, tier: int) -> Recipe | None:
    """The recipe of a suggestion; None where it is of another tier, was tried before, or does not go together."""
    try:
        recipe = ground.space.recipe(asked.suggestion)
        ground.check(recipe)
    except RecipeError:
        return None
    if tier_of(recipe) != tier or (key := _key(ground, recipe)) in course.seen:
        return None
    course.seen.add(key)
    return recipe


def _passes(ground: Ground, course: _Course, batch: Sequence[Candidate]) -> dict[int, Record]:
    """Try a round's candidates, with more for ever fewer; of each, its last record."""
    last: dict[int, Record] = {}
    for share in ground.settings.shares:
        records = _judge(ground, [_task(ground, candidate, share) for candidate in batch])
        last |= {record.number: record for record in records}
        course.records += records
        course.spent = any(record.status == "not begun" for record in records)
        if course.spent:
            break
        going_on = {record.number for record in promoted(records, math.ceil(len(batch) * ground.settings.keep))}
        batch = [candidate for candidate in batch if candidate.number in going_on]
    return last


def _key(ground: Ground, recipe: Recipe, share: float = 1.0) -> str:
    """Of a candidate at a share; what it reads is looked at as a whole, in which each share is contained."""
    return step_key("trial", at_share(recipe, share).model_dump(mode="json"), ground.known(recipe))


def _task(ground: Ground, candidate: Candidate, share: float) -> Task:
    recipe = at_share(candidate.recipe, share)
    key = _key(ground, candidate.recipe, share)
    folder = ground.out / TRIALS / key[:16]
    return Task(
        key=key,
        number=candidate.number,
        tier=candidate.tier,
        share=share,
        suggestion=candidate.asked.suggestion,
        recipe=recipe_text(recipe, ground.space.path.parent, folder),
        folder=folder,
        data_root=ground.data_root,
        cache=ground.out / STEPS,
        metric=ground.metric,
        limit_s=ground.settings.trial_s,
        until=ground.until,
    )


def _judge(ground: Ground, tasks: Sequence[Task]) -> list[Record]:
    """The record of every task, in order: kept where it was finished before, each other as it is done."""
    found = [_timed(ground, _kept(task), task) for task in tasks]
    for record in found:
        if record is not None:
            ground.tell(record, True)
    missing = [number for number, record in enumerate(found) if record is None]
    for place, record in ground.pool.results(Saving(ground.runner), [tasks[number] for number in missing]):
        number = missing[place]
        keep_record(record, tasks[number].folder)  # before it is timed, for that may end the search
        timed = _timed(ground, record, tasks[number]) or record
        found[number] = timed
        ground.tell(timed, False)
    return [record for record in found if record is not None]


def _timed(ground: Ground, record: Record | None, task: Task) -> Record | None:
    """A record with the latency that the ground's timer finds, where it lacks that."""
    if ground.timer is None or record is None or record.status != "judged" or record.timed_on:
        return record
    found = ground.timer(record, task)
    keep_record(found, task.folder)
    return found


def _kept(task: Task) -> Record | None:
    """What is known of a task; one that failed, or ran out of a time that is longer now, is tried again.

    That it was measured in turns with others holds for those of its own search alone: noise is left out.
    """
    record = load_record(task.folder, task.key)
    if record is None or record.status == "failed" or (record.status == "timed out" and record.seconds < task.limit_s):
        return None
    named = record_of(task, record.status, record.seconds, record.message)
    figures = record.figures.model_copy(update={"noise_ms": None})
    return named.model_copy(update={"figures": figures, "lines": record.lines, "timed_on": record.timed_on})
