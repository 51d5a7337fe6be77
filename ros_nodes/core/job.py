"""A batch on its way through the engine: every frame of it is settled exactly once, whoever settles it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ros_nodes.core.counts import Reason
from ros_nodes.core.drift_watch import Glance
from ros_nodes.core.intake import Waiting
from ros_nodes.core.served import Served
from ros_nodes.core.settings import MS

Drop = Callable[[str, Reason], None]
"""Counts a camera's frame as dropped."""


class Job:
    """The frames of one inference; the node's lock guards it.

    The worker settles a frame when it is published or refused. Who cancels the job (a watchdog, a deactivation) settles
    the rest at once; a worker that comes back late then finds nothing left to publish.

    Attributes:
        served: the engine, which stays open as long as the job is not over.
        first_ns: when the first of its frames came.
        taken_ns: when it began.
        hang_ns: how long it may take.
        missed: whether its deadline was found to have passed, so that it is not counted again.
        done: whether its results are out: what the worker does after that is no time of theirs.
        hung: whether it was given up as hanging.
        cancelled: whether what comes of it is of no interest any more.
        glances: what went through the engine, for the drift watch.
    """

    def __init__(self, served: Served, batch: Iterable[Waiting], taken_ns: int, hang_ns: float, drop: Drop) -> None:
        self.served, self.taken_ns, self.hang_ns = served, taken_ns, hang_ns
        self.missed = self.done = self.hung = self.cancelled = False
        self.glances: tuple[Glance, ...] = ()
        self._open = {waiting.camera: waiting for waiting in batch}
        self.batch = tuple(self._open.values())
        self.first_ns = min(waiting.arrived_ns for waiting in self.batch)
        self._drop = drop
        self._leaving = 0

    def hanging(self, now_ns: int) -> str:
        """For how long there has been no answer, in words."""
        return f"{self.served.name}: hangs: no answer for {(now_ns - self.taken_ns) / MS:.0f} ms"

    @property
    def pending(self) -> int:
        """Frames that are not settled yet."""
        return len(self._open) + self._leaving

    def drop(self, camera: str, reason: Reason) -> None:
        """Settle a frame as dropped, unless it is settled already."""
        if self._open.pop(camera, None) is not None:
            self._drop(camera, reason)

    def cancel(self, reason: Reason) -> None:
        """Settle all that is not settled, except what is being published at this moment."""
        self.cancelled = True
        for camera in tuple(self._open):
            self.drop(camera, reason)

    def is_open(self, camera: str) -> bool:
        """Whether a frame is not settled, nor being published."""
        return camera in self._open

    def leave(self, camera: str) -> bool:
        """Begin to publish a frame's result: nobody else settles it from here on; False where somebody has."""
        left = self._open.pop(camera, None) is not None
        self._leaving += left
        return left

    def arrive(self) -> None:
        """The result that was being published is settled."""
        self._leaving -= 1
