"""The page's table of an update: the version before it and the one after, on what was known and on what is new."""

from __future__ import annotations

from dataclasses import dataclass

from validation.comparison import EVERYWHERE
from validation.report import DomainFacts, Interval, Report

UNMEASURED = Interval(value=None, low=None, high=None)


@dataclass(frozen=True)
class VersionRow:
    """One engine on one set of images.

    Attributes:
        name: whose images they are.
        new: whether the update brings them.
        images: how many.
        drop: how much worse the later version is, paired image by image.
    """

    name: str
    new: bool
    images: int
    engine: str
    before: Interval
    after: Interval
    drop: Interval


def version_rows(report: Report) -> list[VersionRow]:
    """The main metric of every engine on every set of images, the run's own first; none of what is no update."""
    if report.update is None:
        return []
    metric = report.update.metric
    return [_row(domain, engine, metric) for domain in report.update.domains for engine in domain.comparisons]


def _row(domain: DomainFacts, engine: str, metric: str) -> VersionRow:
    part = domain.comparisons[engine].find(EVERYWHERE)
    figures = ({}, {}, {}) if part is None else (part.reference, part.network, part.drop)
    before, after, drop = (each.get(metric, UNMEASURED) for each in figures)
    return VersionRow(domain.name, domain.new, domain.images, engine, before, after, drop)
