"""Two versions of a network on the same images: what the later one has forgotten, and what it has gained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from avcompress.contract import AccuracyTerm, Contract
from avcompress.judging.findings import compare
from avcompress.judging.measuring import Measured, find_all
from avcompress.spec import Check, RecipeError
from avcompress.steps import Steps
from avcompress.trial import Subject, Trial
from validation.comparison import Comparison
from validation.contract_check import check_slices, corruption_slices
from validation.gate_accuracy import accuracy_checks
from validation.report import DomainFacts
from validation.report.facts import comparison_facts
from validation.slices import make_slices
from validation.truth import Truth


@dataclass(frozen=True)
class Ground:
    """The labelled images that both versions are measured on, and what is asked of them there.

    Attributes:
        name: whose images they are.
        new: whether the later version is the first that learned from such images.
        terms: held against the version before.
    """

    name: str
    new: bool
    trial: Trial
    truth: Truth
    terms: tuple[AccuracyTerm, ...]


@dataclass(frozen=True)
class Versions:
    """Both versions on one ground: the comparison, by engine, of the later one with the one before."""

    ground: Ground
    comparisons: Mapping[str, Comparison]

    @property
    def checks(self) -> Iterator[Check]:
        """Every term on every engine that both versions have here."""
        name = self.ground.name
        sort = "new" if self.ground.new else "old"
        for term in self.ground.terms:
            for check in accuracy_checks(term, self.comparisons):
                yield replace(check, name=f"{sort} images, {name}: {check.name}", domain=name)

    @property
    def facts(self) -> DomainFacts:
        """What the report says of them."""
        ground = self.ground
        corruptions = corruption_slices(ground.trial.validation)
        return DomainFacts(
            name=ground.name,
            new=ground.new,
            images=len(ground.truth.names),
            fingerprint=ground.trial.source.fingerprint,
            comparisons={name: comparison_facts(found, corruptions) for name, found in self.comparisons.items()},
        )


def check_terms(ground: Ground, key: str) -> None:
    """Hold the terms against the labels, before anything runs; raises RecipeError, naming `key`, for unknown slices."""
    if not ground.terms:
        return
    settings = ground.trial.validation
    try:
        slices = [part.name for part in make_slices(ground.truth, settings)]
        check_slices(Contract(accuracy=ground.terms), slices, settings)
    except RecipeError as error:
        raise RecipeError(str(error).replace("contract.accuracy", key)) from error


def predict_all(steps: Steps, ground: Ground, subjects: Mapping[str, Subject]) -> dict[str, Measured]:
    """What networks give there, by engine; steps that resume."""
    return {name: find_all(steps, ground.trial, subject, ground.truth) for name, subject in subjects.items()}


def compare_versions(
    steps: Steps, ground: Ground, before: Mapping[str, Measured], after: Mapping[str, Measured]
) -> Versions:
    """Hold each engine's later version against the one before; nothing runs."""
    title = f"compare with the version before, {ground.name}, {ground.trial.validation.resamples} resamples"
    with steps.watch.step(title, reused=False):
        comparisons = {
            name: compare(ground.trial, ground.truth, found, {name: after[name]})[name]
            for name, found in before.items()
        }
    return Versions(ground, comparisons)
