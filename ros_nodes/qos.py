"""Quality of service as every transport offers and asks for it, and what becomes of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from avcompress.frozen import Model
from ros_nodes.core.diagnostics import Level, Status


class Wanted(Model):
    """What one topic is wanted with, history keep last; the defaults are those of a camera's subscriber."""

    reliability: Literal["best_effort", "reliable"] = Field(
        "best_effort", description="reliable: what is lost is sent again; a subscriber that wants it hears no other"
    )
    durability: Literal["volatile", "transient_local"] = Field(
        "volatile", description="transient_local: who comes later gets the last ones, too"
    )
    depth: PositiveInt = Field(1, description="messages that are kept; of images, each one more is latency")
    deadline_ms: PositiveFloat | None = Field(
        None, description="between two messages; a subscriber hears only publishers that promise it; default: none"
    )


class Qos(Wanted):
    """What one topic is sent with: only a publisher says how long its messages live."""

    lifespan_ms: PositiveFloat | None = Field(
        None, description="messages that are older are not delivered any more; default: for ever"
    )


CAMERA = Wanted()
"""Of a camera's subscriber: matches every publisher, and lets none wait."""
RESULT = Qos(reliability="reliable")
"""Of results: reliable ones match every subscriber."""
LATCHED = Qos(reliability="reliable", durability="transient_local")
"""Of what holds until it is said anew."""
DIAGNOSTICS = Qos(reliability="reliable", depth=10)

Event = Literal["deadline_missed", "incompatible_qos", "liveliness_lost", "message_lost", "not_shown", "unreadable"]
"""deadline_missed: a topic was silent for longer than its QoS allows. incompatible_qos: the other side asks for more,
or offers less: nothing passes. liveliness_lost: a publisher gave no sign of life for longer than it promised.
message_lost: the transport says so. not_shown: a picture for people came to nothing. unreadable: bytes that are no
such message."""


class Events:
    """Counts what transports tell of QoS; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Event]] = Counter()
        self._told: Counter[tuple[str, Event]] = Counter()
        self._why: dict[tuple[str, Event], str] = {}

    def add(self, topic: str, event: Event, number: int = 1, why: str = "") -> None:
        """There have been some more, or none; `why`: of the last one."""
        with self._lock:
            self._counts[topic, event] += number
            if number:
                self._why[topic, event] = why

    def total(self, event: Event) -> int:
        """Of all topics."""
        with self._lock:
            return sum(number for (_, kind), number in self._counts.items() if kind == event)

    def topics(self, event: Event) -> frozenset[str]:
        """Those on which there has been such an event."""
        with self._lock:
            return frozenset(topic for (topic, kind), number in self._counts.items() if kind == event and number)

    def status(self, unmatched: Collection[str] = ()) -> Status:
        """The status `transport`: a warning about what is new since it was asked for last, and where nothing passes.

        Args:
            unmatched: topics with an endpoint, there at this moment, whose QoS does not match ours: middlewares count
                these when they meet them, and do not say when they have left.
        """
        with self._lock:
            counts = +self._counts
            lasting = {(topic, "incompatible_qos") for topic in unmatched}
            news = [key for key in counts if counts[key] > self._told[key] or key in lasting]
            self._told = counts
            texts = [" ".join(filter(None, (topic, event, self._why[topic, event]))) for topic, event in sorted(news)]
        values = {f"{topic} {event}": str(number) for (topic, event), number in sorted(counts.items())}
        return Status(Level.WARN if news else Level.OK, "transport", "; ".join(texts) or "OK", values)
