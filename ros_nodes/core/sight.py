"""What is known of a camera: whether it sends, and what became of what it sent last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CameraState = Literal["ok", "waiting", "stale", "rejected"]
"""waiting: no image yet, or none for longer than the timeout. stale, rejected: what became of the last one."""
Size = tuple[int, int]
"""Height, width."""


@dataclass
class Sight:
    """What is seen of one camera while the node runs; its owner's lock guards it.

    Attributes:
        arrived_ns: when it last sent, by the monotonic clock; None where it never has.
        outcome: of the last image whose turn came.
        why: one line, where that was not ok.
        size: of its images; None before the first that could be read.
        resizes: how often that has changed.
        resized_ns: when it last did.
    """

    arrived_ns: int | None = None
    outcome: Literal["ok", "stale", "rejected"] = "ok"
    why: str = ""
    size: Size | None = None
    resizes: int = 0
    resized_ns: int | None = None

    def judge(self, outcome: Literal["ok", "stale", "rejected"], why: str = "") -> None:
        """Note what became of an image."""
        self.outcome, self.why = outcome, why

    def measure(self, size: Size, now_ns: int) -> None:
        """Note an image's size."""
        if self.size is not None and self.size != size:
            self.resizes, self.resized_ns = self.resizes + 1, now_ns
        self.size = size

    def state(self, now_ns: int, timeout_ns: int) -> CameraState:
        """What to say of the camera now."""
        if self.arrived_ns is None or now_ns - self.arrived_ns > timeout_ns:
            return "waiting"
        return self.outcome
