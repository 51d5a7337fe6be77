"""What a transport has to offer a node; everything else about serving is the node's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from calibration.frame import Frame
from ros_nodes.core.diagnostics import Status
from ros_nodes.core.lifecycle import Step
from ros_nodes.core.result import Result

Deliver = Callable[[str, Frame], None]
"""Takes a camera's name and what it sent; from any thread, and returns at once."""


@dataclass(frozen=True)
class Announcement:
    """What subscribers need to read results: the name of every class, in the order of the labels.

    Attributes:
        kind: what is published: boxes, or masks.
        name: of the recipe.
        revision: of the bundle.
        threshold: scores below are not published; 0 for masks.
        deadline_ms: that the node watches.
    """

    kind: Literal["detection", "segmentation"]
    name: str
    revision: int
    classes: tuple[str, ...]
    threshold: float
    deadline_ms: float


class Port(Protocol):
    """A transport. Whatever a method raises, the node survives it, and counts what was lost."""

    def subscribe(self, cameras: tuple[str, ...], deliver: Deliver) -> None:
        """From now on deliver what these cameras send."""
        ...

    def unsubscribe(self) -> None:
        """Deliver no more; without effect where nothing is subscribed."""
        ...

    def announce(self, announcement: Announcement) -> None:
        """Tell subscribers, those that come later too, how results are to be read from now on."""
        ...

    def publish(self, result: Result) -> None:
        """Send one result, and no more: whether it raises is whether the result was lost; empty ones, too."""
        ...

    def follow_up(self, result: Result, at_ns: int) -> None:
        """After a result was sent, at that moment of the monotonic clock: say how long it took, and the like.

        The results of its batch are out by then. What it raises touches no count.
        """
        ...

    def report(self, statuses: tuple[Status, ...]) -> None:
        """Send the diagnostics."""
        ...

    def changed(self, step: Step) -> None:
        """The lifecycle has moved, asked for or not."""
        ...
