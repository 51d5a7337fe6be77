"""Where every frame went: received = published + dropped, by reason, + what waits or is being worked on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

Reason = Literal["superseded", "stale", "inactive", "rejected", "failed", "hung", "unpublished"]
"""Why a frame was not published.

superseded: a newer frame of its camera came before its turn. stale: older than `max_age_ms` when its turn came.
inactive: came to a node that was not active, or that was deactivated before it was published. rejected: not an image
that can be read. failed, hung: what the inference did. unpublished: the transport refused the result.
"""
REASONS: tuple[Reason, ...] = get_args(Reason)

AGES = ("1-2", "2-4", "4-8", "8-")
"""Bands of a stale frame's age, in multiples of the greatest age allowed."""


@dataclass(frozen=True)
class Counts:
    """The frames of one camera, since the node began.

    Attributes:
        dropped: by reason; every reason is there.
        stale_ages: the stale ones by the band of their age.
    """

    received: int
    published: int
    dropped: dict[Reason, int]
    stale_ages: dict[str, int]

    @property
    def pending(self) -> int:
        """Frames that wait, or are being worked on."""
        return self.received - self.published - sum(self.dropped.values())


@dataclass
class Tally:
    """What is counted of one camera while the node runs; its owner's lock guards it."""

    received: int = 0
    published: int = 0
    _dropped: Counter[Reason] = field(default_factory=Counter)
    _stale_ages: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: Reason) -> None:
        """Count a frame that will not be published."""
        self._dropped[reason] += 1

    def drop_stale(self, age_ns: int, max_age_ns: int) -> None:
        """Count a frame that was older than allowed, in the band of its age."""
        self.drop("stale")
        doublings = max(age_ns // max(max_age_ns, 1), 1).bit_length() - 1
        self._stale_ages[AGES[min(doublings, len(AGES) - 1)]] += 1

    @property
    def counts(self) -> Counts:
        """A copy that stays as it is."""
        return Counts(
            self.received,
            self.published,
            {reason: self._dropped[reason] for reason in REASONS},
            {band: self._stale_ages[band] for band in AGES},
        )
