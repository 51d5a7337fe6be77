"""How images come: one after the other, or at a camera's rate whether the engine is ready or not.

A latency counts from the moment when the image was due, not from when the engine took it up: a stall is charged to
every image that had to wait for it. A loop that sends the next image only when the last one is done would time one slow
run where a vehicle misses ten images (coordinated omission).

Source: MLPerf Inference, LoadGen (arXiv:1911.02549), single stream and multiple streams; Gil Tene, "How NOT to Measure
Latency".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from avcompress.contract import Measure, Scenario
from avcompress.spec import RecipeError
from validation.latency.stages import Stages, by_stage, steps
from validation.latency.timing import REAL, Time, no_garbage_collection, run_once, wait_until
from validation.latency.values import Latency

WAITING = "waiting"
"""The stage before all others: from the moment when an image is due to the moment when the engine takes it up."""
LEAD_NS = 1_000_000
"""From the start of a stream to its first image."""


class Frame(NamedTuple):
    """An image of a stream: its number in the order of arrival, its camera, and when it is due, from the start."""

    number: int
    camera: int
    due_ns: int


class Timeline(NamedTuple):
    """What became of the images.

    Attributes:
        latency: from due to done, of the images that were taken up, in that order.
        arrivals_s: when each of them was due, from the start.
        cameras: where each of them came from.
        stages: by name, disjoint, in the order of `latency`; they add up to it.
        dropped_s: when the images were due that nobody took up.
        seconds: from the start to the last result.
    """

    latency: Latency
    arrivals_s: tuple[float, ...]
    cameras: tuple[int, ...]
    stages: dict[str, Latency]
    dropped_s: tuple[float, ...]
    seconds: float


def run_scenario(
    scenario: Scenario, stages: Stages, items: Sequence[Any], measure: Measure, by: Time = REAL
) -> Timeline:
    """Feed images to a chain of stages as a scenario has them come; nothing is warmed up here.

    Args:
        scenario: single_stream, constant_stream or multi_camera.
        stages: by name, in order.
        items: what the first stage is fed, in turn; at least one.
        measure: how many images in all, at which rate, of how many cameras, and what becomes of those that wait.
        by: the clock, and how to wait.
    """
    if not items:
        raise RecipeError("measure: expected an image at least, got none; give some")
    with no_garbage_collection():
        if scenario == "single_stream":
            return _one_after_the_other(stages, items, measure.runs, by)
        cameras = measure.cameras if scenario == "multi_camera" else 1
        frames = schedule(measure.runs, measure.rate_hz, cameras, measure.phases)
        return _stream(stages, items, frames, make_queue(measure.queue), by)


def warm_up(stages: Stages, items: Sequence[Any], runs: int) -> None:
    """Run the stages so many times, for nothing."""
    for index in range(runs):
        value = items[index % len(items)]
        for function in stages.values():
            value = function(value)


def schedule(
    images: int, rate_hz: float, cameras: int = 1, phases: Literal["spread", "same"] = "spread"
) -> tuple[Frame, ...]:
    """The images of cameras in turn, in all `images`: an absolute plan, so that no delay shifts what comes after it.

    spread: n cameras follow each other by an n-th of a period. same: all at one moment, as a common trigger does.
    """
    offset = 1 / cameras if phases == "spread" else 0.0
    return tuple(
        Frame(i, i % cameras, round(1e9 * (i // cameras + (i % cameras) * offset) / rate_hz)) for i in range(images)
    )


class Queue(Protocol):
    """The images that wait for the engine."""

    dropped: list[Frame]

    def put(self, frame: Frame) -> None:
        """Let an image wait."""

    def take(self) -> Frame | None:
        """The image whose turn it is; None where none waits."""
        ...


class Newest:
    """One slot a camera: an older image that still waits there is dropped. The cameras have their turns in order."""

    def __init__(self) -> None:
        self.dropped: list[Frame] = []
        self._slots: dict[int, Frame] = {}

    def put(self, frame: Frame) -> None:
        """Take the camera's slot; it keeps its place in the order, or a fast camera would push others back for ever."""
        old = self._slots.get(frame.camera)
        if old is not None:
            self.dropped.append(old)
        self._slots[frame.camera] = frame

    def take(self) -> Frame | None:
        """The image of the camera that has waited longest for its turn."""
        return self._slots.pop(next(iter(self._slots))) if self._slots else None


class Every:
    """First come, first served; nothing is dropped."""

    def __init__(self) -> None:
        self.dropped: list[Frame] = []
        self._waiting: deque[Frame] = deque()

    def put(self, frame: Frame) -> None:
        """Join the end."""
        self._waiting.append(frame)

    def take(self) -> Frame | None:
        """The image that came first."""
        return self._waiting.popleft() if self._waiting else None


def make_queue(kind: Literal["newest", "every"]) -> Queue:
    """An empty queue, by the name that recipes give it."""
    return Newest() if kind == "newest" else Every()


def _one_after_the_other(stages: Stages, items: Sequence[Any], runs: int, by: Time) -> Timeline:
    functions, clock = tuple(stages.values()), by.clock
    readings = [[0] * (len(functions) + 1) for _ in range(runs)]
    start = clock()
    for index, reading in enumerate(readings):
        run_once(functions, items[index % len(items)], reading, clock)
    return Timeline(
        latency=Latency(tuple((row[-1] - row[0]) / 1e6 for row in readings)),
        arrivals_s=tuple((row[0] - start) / 1e9 for row in readings),
        cameras=(0,) * runs,
        stages=by_stage(tuple(stages), map(steps, readings)),
        dropped_s=(),
        seconds=(readings[-1][-1] - start) / 1e9,
    )


def _stream(stages: Stages, items: Sequence[Any], frames: tuple[Frame, ...], queue: Queue, by: Time) -> Timeline:
    """One worker: it takes up what waits, and where nothing does, waits for what comes next."""
    functions, clock = tuple(stages.values()), by.clock
    readings = [[0] * (len(functions) + 1) for _ in frames]
    served: list[Frame] = []
    start = clock() + LEAD_NS
    coming = 0
    while True:
        now = clock() - start
        while coming < len(frames) and frames[coming].due_ns <= now:
            queue.put(frames[coming])
            coming += 1
        frame = queue.take()
        if frame is not None:
            run_once(functions, items[frame.number % len(items)], readings[len(served)], clock)
            served.append(frame)
        elif coming < len(frames):
            wait_until(start + frames[coming].due_ns, by)
        else:
            break
    rows = [[start + frame.due_ns, *row] for frame, row in zip(served, readings, strict=False)]
    return _timeline(tuple(stages), served, rows, queue.dropped, start)


def _timeline(
    names: tuple[str, ...], served: list[Frame], rows: list[list[int]], dropped: list[Frame], start: int
) -> Timeline:
    """From the moments of every image that was taken up: due, taken up, and the end of each stage."""
    return Timeline(
        latency=Latency(tuple((row[-1] - row[0]) / 1e6 for row in rows)),
        arrivals_s=tuple(frame.due_ns / 1e9 for frame in served),
        cameras=tuple(frame.camera for frame in served),
        stages=by_stage((WAITING, *names), map(steps, rows)),
        dropped_s=tuple(sorted(frame.due_ns / 1e9 for frame in dropped)),
        seconds=(rows[-1][-1] - start) / 1e9,
    )
