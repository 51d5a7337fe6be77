"""The report's part on an update: which network it began with, and both on what was known and on what is new."""

from __future__ import annotations

from pydantic import Field

from avcompress.frozen import Model
from validation.report.accuracy import ComparisonFacts


class DomainFacts(Model):
    """Images that the network has to cope with: the run's own, those of an earlier update, or the new ones."""

    name: str = Field(description="the run's, or the update's that brought them")
    new: bool = Field(description="whether this update brings them")
    images: int = Field(description="labelled images that both versions were measured on")
    fingerprint: str = Field(description="hash over the names and contents of these images")
    comparisons: dict[str, ComparisonFacts] = Field(
        description="by engine: `reference` is the version before the update, `network` the one after it"
    )


class UpdateFacts(Model):
    """What a network was updated from, and what that changed."""

    name: str = Field(description="of the update")
    previous: str = Field(description="folder of the version before it")
    previous_sha256: str = Field(description="of that version's network")
    number: int = Field(description="how many updates there have been since the run, this one counted")
    replay: float = Field(description="share of each batch that was old images")
    metric: str = Field(description="the one that stands for accuracy: the contract's first AP or IoU")
    domains: tuple[DomainFacts, ...] = Field(description="the run's own images first, the new ones last")
