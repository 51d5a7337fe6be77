"""Pictures with the results drawn in, for people: by a thread of its own, so that no result waits for one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from avcompress.spec import AvcompressError
from calibration.frame import Frame, Header, to_rgb
from engines.postprocess import Detections
from ros_nodes.core.clock import REAL, Clock
from ros_nodes.core.result import Result
from ros_nodes.core.settings import MS
from validation.predict import Prediction

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

_KEPT = 3
"""Frames of a camera that a result may still be of: one that is worked on, one that waits, one that has come since."""
_THICKNESS = 2


def draw(image: Picture, found: Prediction, classes: tuple[str, ...]) -> Picture:
    """A copy of the image with boxes and their names, or half covered by the classes' colours."""
    if isinstance(found, Detections):
        out: Picture = image.copy()
        for box, score, label in zip(found.xyxy, found.scores, found.labels, strict=True):
            _box(out, box, f"{_name(classes, int(label))} {score:.2f}", _colours(int(label) + 1)[int(label)].tolist())
        return out
    covered: Picture = np.asarray(cv2.addWeighted(image, 0.5, _colours(int(found.max()) + 1)[found], 0.5, 0), np.uint8)
    return covered


def _box(out: Picture, box: NDArray[np.float32], text: str, colour: list[int]) -> None:
    left, top, right, bottom = (round(float(edge)) for edge in box)
    cv2.rectangle(out, (left, top), (right, bottom), colour, _THICKNESS)
    cv2.putText(out, text, (left, max(top - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)


def _name(classes: tuple[str, ...], label: int) -> str:
    return classes[label] if label < len(classes) else str(label)


def _colours(count: int) -> NDArray[np.uint8]:
    """(count, 3): hues a golden angle apart, so that neighbours differ."""
    hues = (np.arange(count) * 137.508 / 2 % 180).astype(np.uint8)
    hsv = np.stack([hues, np.full(count, 200, np.uint8), np.full(count, 255, np.uint8)], axis=1)
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0], np.uint8)


@dataclass(frozen=True, eq=False)
class Drawn:
    """One picture, and what it was drawn over."""

    camera: str
    header: Header
    picture: Picture


def _ignore(_: str, __: Exception) -> None:
    pass


@dataclass
class Overlay:
    """Draws the newest result of a camera now and then; what comes while it draws is left out.

    Attributes:
        every_ms: between two pictures of a camera.
        on_picture: takes them, in the thread that draws.
        on_error: is told, there too, of what came in between, and the camera; the next result is drawn.
        classes: their names.
    """

    every_ms: float
    on_picture: Callable[[Drawn], None]
    classes: tuple[str, ...] = ()
    clock: Clock = REAL
    on_error: Callable[[str, Exception], None] = _ignore
    _frames: dict[str, deque[Frame]] = field(default_factory=dict, init=False)
    _drawn_ns: dict[str, int] = field(default_factory=dict, init=False)
    _waiting: tuple[Frame, Result] | None = field(default=None, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _closed: bool = field(default=False, init=False)

    def start(self) -> None:
        """Draw from now on."""
        threading.Thread(target=self._work, name="avcompress overlay", daemon=True).start()

    def close(self) -> None:
        """Draw no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def keep(self, camera: str, frame: Frame) -> None:
        """Remember a frame until its result comes; from any thread."""
        with self._changed:
            self._frames.setdefault(camera, deque(maxlen=_KEPT)).append(frame)

    def offer(self, result: Result) -> None:
        """Draw a result, if it is time for one and its frame is still here; returns at once."""
        now = self.clock.monotonic_ns()
        with self._changed:
            last = self._drawn_ns.get(result.camera)
            if self._waiting is not None or (last is not None and now - last < self.every_ms * MS):
                return
            frame = next((f for f in self._frames.get(result.camera, ()) if f.header == result.header), None)
            if frame is None:
                return
            self._drawn_ns[result.camera] = now
            self._waiting = (frame, result)
            self._changed.notify_all()

    def draw_one(self) -> bool:
        """Draw what waits; False where nothing does."""
        with self._changed:
            waiting = self._waiting
        if waiting is None:
            return False
        frame, result = waiting
        try:
            picture = draw(to_rgb(frame), result.prediction, self.classes)
            self.on_picture(Drawn(result.camera, result.header, picture))
        except AvcompressError:
            pass  # A frame that cannot be read has no result, either.
        except Exception as error:  # pictures are for people: they end no thread, and stop no vehicle
            self.on_error(result.camera, error)
        finally:
            with self._changed:
                self._waiting = None
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
            self.draw_one()
