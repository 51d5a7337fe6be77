"""Measures what groups lose: whatever is known from before is kept, the rest is done by a pool, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import assert_never

from avcompress.files import private_folder
from avcompress.recipe import Task
from avcompress.search.cache import Cache, sweep
from avcompress.search.formats import Formats
from avcompress.search.pool import Pool
from avcompress.search.sensitivity.fisher import FisherError
from avcompress.search.sensitivity.hessian import HessianError
from avcompress.search.sensitivity.output import Case, MetricLoss, OutputError, Score
from avcompress.search.sensitivity.shots import Shots, keep_shots
from avcompress.search.sensitivity.values import Kind, Losses, Sensitivity
from avcompress.spec import Batch, DataError, Precision, Track, untracked
from avcompress.state import step_key

BLOCK = 8
"""Images that are differentiated in one piece."""


@dataclass(frozen=True, eq=False)
class Material:
    """What a network is measured with.

    Attributes:
        formats: the network.
        batches: images as it takes them.
        images: how many of them, the first ones.
        task: whose units the answers are counted in; None: every output by its deviation.
        size: height and width of the network's input.
        seed: of the random signs of `fisher` and `hessian`.
    """

    formats: Formats
    batches: Iterable[Batch]
    images: int
    task: Task | None
    size: tuple[int, int]
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Metric:
    """The metric of networks, and what it depends on beside them: the images, labels and settings, hashed."""

    score: Score
    key: str
    images: int


def measure_sensitivity(
    kind: Kind,
    material: Material,
    cache: Cache,
    pool: Pool,
    metric: Metric | None = None,
    track: Track = untracked,
) -> Sensitivity:
    """What every group loses in each precision that it may take.

    Args:
        kind: the measure.
        material: the network and the images.
        cache: what is in it is not measured again.
        pool: does the work; the result is the same by any.
        metric: for `metric`, which looks at no other images.
        track: watches the pieces.

    Raises DataError without images, or for `metric` without one.
    """
    if kind == "metric":
        if metric is None:
            raise DataError("sensitivity: expected a metric for `metric`, got none; give one, or take `output`")
        return _by_metric(material.formats, metric, cache, pool, track)
    with private_folder() as folder:
        shots = keep_shots(material.formats.model, material.batches, material.images, folder)
        given = (material.formats, shots, material.task, material.size)
        match kind:
            case "output":
                work = OutputError(*given)
                keys = _case_keys(material.formats, [kind, *_looks(material, shots)])
                found = _by_case(work, material.formats, keys, cache, pool, track)
                return Sensitivity(kind, found, shots.count)
            case "fisher":
                return _by_block(kind, FisherError(*given, material.seed), cache, pool, track)
            case "hessian":
                return _by_block(kind, HessianError(*given, material.seed), cache, pool, track)
            case _:
                assert_never(kind)


def _looks(material: Material, shots: Shots) -> list[Any]:
    """What decides the answers' units and the images."""
    task = None if material.task is None else material.task.model_dump()
    return [shots.digest, task, material.size]


# --- group by group


def _cases(formats: Formats) -> list[Case]:
    """Every group in every precision but FP32 that it may take."""
    choices = formats.choices
    return [(group, each) for group in formats.layout.groups for each in choices[group.name] if each != "fp32"]


def _case_keys(formats: Formats, looks: list[Any]) -> list[str]:
    return [
        step_key("sensitivity", looks, formats.digest(precision), group.layers, precision)
        for group, precision in _cases(formats)
    ]


def _by_case(
    work: OutputError | MetricLoss, formats: Formats, keys: list[str], cache: Cache, pool: Pool, track: Track
) -> Losses:
    cases = _cases(formats)
    losses: dict[str, dict[Precision, float]] = {}
    for (group, precision), loss in zip(cases, sweep(work, cases, keys, cache, pool, track), strict=True):
        losses.setdefault(group.name, {})[precision] = float(loss)
    return losses


def _by_metric(formats: Formats, metric: Metric, cache: Cache, pool: Pool, track: Track) -> Sensitivity:
    looks = ["metric", metric.key]
    (whole,) = sweep(metric.score, [formats.model], [step_key(looks, formats.digest("fp32"))], cache, pool)
    work = MetricLoss(formats, metric.score, float(whole))
    return Sensitivity("metric", _by_case(work, formats, _case_keys(formats, looks), cache, pool, track), metric.images)


# --- a few images after the other


def _by_block(kind: Kind, work: FisherError | HessianError, cache: Cache, pool: Pool, track: Track) -> Sensitivity:
    blocks = work.shots.blocks(BLOCK)
    formats = work.formats
    digests = {precision: formats.digest(precision) for _, precision in work.cases}
    task = None if work.task is None else work.task.model_dump()
    cases = [(group.layers, formats.choices[group.name]) for group in formats.layout.groups]
    looks = [kind, work.shots.digest, task, work.size, work.seed, digests, cases]
    keys = [step_key("sensitivity", looks, block) for block in blocks]
    sums = sweep(work, blocks, keys, cache, pool, track)
    return Sensitivity(kind, _mean(sums, work.shots.count), work.shots.count)


def _mean(sums: list[Mapping[str, Mapping[Precision, float]]], images: int) -> Losses:
    return {
        group: {precision: sum(block[group][precision] for block in sums) / images for precision in own}
        for group, own in sums[0].items()
    }
