"""The port for a program that has the node in its own process: plain functions, no messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from calibration.frame import Frame
from ros_nodes.core.diagnostics import Status
from ros_nodes.core.lifecycle import Step
from ros_nodes.core.port import Announcement, Deliver
from ros_nodes.core.result import Result


def _ignore(_: object) -> None:
    pass


@dataclass
class InProcess:
    """Hands frames to a node by `send`, and what it says to functions.

    They are called by the node's own threads, and keep it from its work for as long as they last.
    """

    on_result: Callable[[Result], None]
    on_announcement: Callable[[Announcement], None] = _ignore
    on_diagnostics: Callable[[tuple[Status, ...]], None] = _ignore
    on_change: Callable[[Step], None] = _ignore
    _deliver: Deliver | None = field(default=None, init=False)

    def send(self, camera: str, frame: Frame) -> bool:
        """Give the node a frame; False where it does not listen: no node counts such a frame."""
        deliver = self._deliver
        if deliver is None:
            return False
        deliver(camera, frame)
        return True

    def subscribe(self, cameras: tuple[str, ...], deliver: Deliver) -> None:  # noqa: ARG002 (the port's own signature)
        """See Port."""
        self._deliver = deliver

    def unsubscribe(self) -> None:
        """See Port."""
        self._deliver = None

    def announce(self, announcement: Announcement) -> None:
        """See Port."""
        self.on_announcement(announcement)

    def publish(self, result: Result) -> None:
        """See Port."""
        self.on_result(result)

    def follow_up(self, result: Result, at_ns: int) -> None:
        """Nothing: the program may look at its clock itself."""

    def report(self, statuses: tuple[Status, ...]) -> None:
        """See Port."""
        self.on_diagnostics(statuses)

    def changed(self, step: Step) -> None:
        """See Port."""
        self.on_change(step)
