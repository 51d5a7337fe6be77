"""Which frames wait, and when which of them go to the engine together; pure bookkeeping, no clock and no lock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from calibration.frame import Frame


@dataclass(frozen=True, eq=False)
class Waiting:
    """A frame whose turn has not come.

    Attributes:
        arrived_ns: by the monotonic clock.
        age_ns: that it had when it arrived, by its stamp; 0 where stamps are not looked at.
    """

    camera: str
    frame: Frame
    arrived_ns: int
    age_ns: int = 0

    def age_at(self, now_ns: int) -> int:
        """Nanoseconds since the image was taken."""
        return self.age_ns + now_ns - self.arrived_ns


class Taken(NamedTuple):
    """What `take` found: the frames whose turn has come, and those that were too old when it came."""

    batch: tuple[Waiting, ...]
    stale: tuple[Waiting, ...]


class Intake:
    """The newest frame of each camera, and whose turn it is."""

    def __init__(self, cameras: Iterable[str], max_age_ns: int, window_ns: int = 0) -> None:
        """Begin with nothing.

        Args:
            cameras: their names; frames of others are not taken.
            max_age_ns: frames that are older when their turn comes are stale.
            window_ns: how long the first frame waits for those of the other cameras, at most.
        """
        # In the order in which they were served, the longest ago first: so no camera starves another.
        self._turns = list(cameras)
        self._max_age_ns, self._window_ns = max_age_ns, window_ns
        self._waiting: dict[str, Waiting] = {}
        # Not when the frame came: a newer one in its place must not put the batch off.
        self._since_ns: dict[str, int] = {}

    def put(self, new: Waiting) -> Waiting | None:
        """Let a frame wait; returns the one that does not, any more or at all: the older of two of a camera."""
        old = self._waiting.get(new.camera)
        if old is not None and old.frame.header.stamp_ns > new.frame.header.stamp_ns:
            return new
        self._waiting[new.camera] = new
        self._since_ns.setdefault(new.camera, new.arrived_ns)
        return old

    def due_ns(self, capacity: int) -> int | None:
        """When the next batch may go, of `capacity` frames at most: at once where it is full; None: nothing waits."""
        if not self._waiting:
            return None
        first_ns = min(self._since_ns.values())
        full = len(self._waiting) >= min(capacity, len(self._turns))
        return first_ns if full else first_ns + self._window_ns

    def take(self, now_ns: int, capacity: int) -> Taken:
        """Take the frames whose turn it is, if any; what is stale goes, whether or not there is room for it."""
        stale = tuple(w for w in self._waiting.values() if w.age_at(now_ns) > self._max_age_ns)
        for waiting in stale:
            self._remove(waiting.camera)
        due = self.due_ns(capacity)
        if due is None or due > now_ns:
            return Taken((), stale)
        chosen = [camera for camera in self._turns if camera in self._waiting][:capacity]
        self._turns = [camera for camera in self._turns if camera not in chosen] + chosen
        return Taken(tuple(self._remove(camera) for camera in chosen), stale)

    def clear(self) -> tuple[Waiting, ...]:
        """Take everything, whatever its age."""
        return tuple(self._remove(camera) for camera in tuple(self._waiting))

    def _remove(self, camera: str) -> Waiting:
        del self._since_ns[camera]
        return self._waiting.pop(camera)

    def __len__(self) -> int:
        return len(self._waiting)
