"""The frames of all cameras: taken in, handed out, and accounted for; no clock and no lock: the node has both."""

from __future__ import annotations

from avcompress.spec import Array, DataError
from calibration.frame import Frame, check_frame
from ros_nodes.core.counts import Counts, Reason, Tally
from ros_nodes.core.diagnostics import CameraView
from ros_nodes.core.intake import Intake, Waiting
from ros_nodes.core.settings import MS, Settings
from ros_nodes.core.sight import Sight


class Desk:
    """What is known of the cameras, and what of theirs waits."""

    def __init__(self, settings: Settings) -> None:
        self._cameras = settings.cameras
        self._max_age_ns = round(settings.max_age_ms * MS)
        self._timeout_ns = round(settings.camera_timeout_ms * MS)
        self._intake = Intake(settings.cameras, self._max_age_ns, round(settings.batch_window_ms * MS))
        self._tallies = {camera: Tally() for camera in settings.cameras}
        self.forget()

    def forget(self) -> None:
        """Begin to look at the cameras anew; what was counted stays."""
        self._sights = {camera: Sight() for camera in self._cameras}

    def __contains__(self, camera: str) -> bool:
        return camera in self._tallies

    # --- in

    def turn_away(self, camera: str) -> None:
        """Count a frame that came to a node that is not active."""
        self._tallies[camera].received += 1
        self.drop(camera, "inactive")

    def accept(self, camera: str, frame: Frame, now_ns: int, age_ns: int) -> None:
        """Let a frame wait, unless it cannot be read or a newer one waits already."""
        self._tallies[camera].received += 1
        self._sights[camera].arrived_ns = now_ns
        try:
            check_frame(frame)
        except DataError as error:
            self.drop(camera, "rejected")
            self.reject(camera, str(error))
            return
        lost = self._intake.put(Waiting(camera, frame, now_ns, age_ns))
        if lost is not None:
            self.drop(camera, "superseded")

    # --- out

    def due_ns(self, capacity: int) -> int | None:
        """When the next batch may go; None where nothing waits."""
        return self._intake.due_ns(capacity)

    def take(self, now_ns: int, capacity: int) -> tuple[Waiting, ...]:
        """The frames whose turn it is; those that are too old by now are dropped."""
        batch, stale = self._intake.take(now_ns, capacity)
        for waiting in stale:
            age = waiting.age_at(now_ns)
            self._tallies[waiting.camera].drop_stale(age, self._max_age_ns)
            self._sights[waiting.camera].judge(
                "stale", f"expected at most {self._max_age_ns / MS:.0f} ms, got {age / MS:.0f} ms when its turn came"
            )
        return batch

    def clear(self) -> None:
        """Drop what waits, as the node is not active any more."""
        for waiting in self._intake.clear():
            self.drop(waiting.camera, "inactive")

    # --- what became of them

    def drop(self, camera: str, reason: Reason) -> None:
        """Count a frame that is not published."""
        self._tallies[camera].drop(reason)

    def reject(self, camera: str, why: str) -> None:
        """Note why a camera's image could not be read."""
        self._sights[camera].judge("rejected", why)

    def measure(self, camera: str, image: Array, now_ns: int) -> None:
        """Note the size of a camera's image, (H, W, 3)."""
        self._sights[camera].measure((image.shape[0], image.shape[1]), now_ns)

    def settle(self, camera: str, published: bool) -> None:
        """Count a frame whose result was published, or was meant to be."""
        self._sights[camera].judge("ok")
        if published:
            self._tallies[camera].published += 1
        else:
            self.drop(camera, "unpublished")

    # --- what is said of them

    @property
    def counts(self) -> dict[str, Counts]:
        """Where every frame went, by camera."""
        return {camera: tally.counts for camera, tally in self._tallies.items()}

    def __len__(self) -> int:
        return len(self._intake)

    def views(self, now_ns: int) -> dict[str, CameraView]:
        """What diagnostics say of the cameras."""
        return {camera: self._view(self._sights[camera], self._tallies[camera], now_ns) for camera in self._cameras}

    def _view(self, sight: Sight, tally: Tally, now_ns: int) -> CameraView:
        return CameraView(
            state=sight.state(now_ns, self._timeout_ns),
            why=sight.why,
            counts=tally.counts,
            size=sight.size,
            resizes=sight.resizes,
            resized_ns=None if sight.resized_ns is None else now_ns - sight.resized_ns,
            silent_ns=None if sight.arrived_ns is None else now_ns - sight.arrived_ns,
        )
