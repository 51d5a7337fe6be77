"""A node over a recorded drive, faster than it was driven: on a clock that jumps from one event to the next.

What the node does takes real time, and that time passes on the replay's clock, too: frames that would have come
meanwhile wait, are superseded or grow stale just as they would have on a vehicle that is as fast as this machine. With
`free`, it does not pass: every frame is served, as if the engine took none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from avcompress.spec import DataError, EngineError, RecipeError, Track, untracked
from calibration.bag.reading import Recorded, open_bag
from ros_nodes.bag.writing import BagPort, NewBag, Storage, new_bag
from ros_nodes.core.clock import Clock
from ros_nodes.core.counts import Counts
from ros_nodes.core.lifecycle import State, Transition
from ros_nodes.core.loading import Load
from ros_nodes.core.names import node_name
from ros_nodes.core.node import Node
from ros_nodes.core.result import STAGES, Result
from ros_nodes.core.served import load_served
from ros_nodes.core.settings import MS, Settings
from validation.latency.values import LATE, Latency

TOTAL = "total"


class JumpingClock:
    """The time of the recording, which passes while `working` and else jumps to where it is told."""

    def __init__(self, real_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._real_ns = real_ns
        self._at_ns = 0
        self._since_ns: int | None = None

    def now_ns(self) -> int:
        """Nanoseconds of the recorder's clock."""
        return self._at_ns + (0 if self._since_ns is None else self._real_ns() - self._since_ns)

    def set_ns(self) -> int:
        """The time without what has passed of the work under way."""
        return self._at_ns

    def jump(self, to_ns: int) -> None:
        """Set the time."""
        self._at_ns = to_ns

    @contextmanager
    def working(self, free: bool) -> Iterator[None]:
        """Let time pass within the block; afterwards it is as before where the work was `free`."""
        self._since_ns = self._real_ns()
        try:
            yield
        finally:
            passed, self._since_ns = self._real_ns() - self._since_ns, None
            self._at_ns += 0 if free else passed


@dataclass(frozen=True)
class Replayed:
    """What came of a replay.

    Attributes:
        counts: where every frame went, by camera.
        latencies: by stage, and `total` from arrival to the published result; there, LATE for frames without one.
        engine: what served last.
        deadline_ms: that was watched.
        recorded_s: how long the drive was.
        seconds: how long its replay took.
    """

    counts: Mapping[str, Counts]
    latencies: Mapping[str, Latency]
    engine: str
    deadline_ms: float
    recorded_s: float
    seconds: float


@dataclass(frozen=True)
class Replay:
    """What to replay.

    Attributes:
        settings: of the node.
        topics: of the bag, by camera.
        node: its name in the bag that is written.
        free: let the node's work take no time, so that every frame is served.
        storage: of the bag that is written.
    """

    settings: Settings
    topics: Mapping[str, str]
    node: str = "avcompress"
    free: bool = False
    storage: Storage = "mcap"

    def __post_init__(self) -> None:
        try:
            node_name(self.node)
        except ValueError as error:
            raise RecipeError(f"node: {error}") from None


def replay(bag: Path, out: Path, what: Replay, track: Track = untracked, load: Load = load_served) -> Replayed:
    """Run a node over a bag, and write what it says into a new one.

    Raises RecipeError for an `out` inside of what is read; DataError for what is no bag, or has no images; EngineError
    when the bundle is refused or the node stopped; OutputError when `out` cannot be written.
    """
    _refuse_inside(out, bag, what.settings)
    clock, begun = JumpingClock(), time.perf_counter()
    with open_bag(bag, what.topics) as frames, new_bag(out, what.storage) as seen:
        if not len(frames):
            raise DataError(f"{bag}: expected images, got none on {', '.join(what.topics.values())}; give other topics")
        rows: list[tuple[float, ...]] = []

        def keep(result: Result, took_ns: int) -> None:
            rows.append((*result.moments.stages_ms.values(), took_ns / MS))

        # Work that takes no time has no moment of its own; else results would overtake each other.
        port = BagPort(seen, what.node, clock.set_ns if what.free else clock.now_ns, keep)
        # No watchdog: nothing hangs, however long the deadline.
        settings = what.settings.model_copy(update={"hang_ms": math.inf})
        node = Node(settings, port, Clock(clock.now_ns, clock.now_ns), load)
        try:
            recorded_ns = _drive(node, track(frames, len(frames)), clock, what, seen)
            snapshot = node.snapshot()
        finally:
            node.transition("shutdown")
    return Replayed(
        counts=node.counts,
        latencies=_latencies(rows, node.counts),
        engine=snapshot.engines.active,
        deadline_ms=0.0 if snapshot.limits is None else snapshot.limits.deadline_ns / MS,
        recorded_s=recorded_ns / 1e9,
        seconds=time.perf_counter() - begun,
    )


def _refuse_inside(out: Path, bag: Path, settings: Settings) -> None:
    """What is read must not change: a bundle with a file more is another one, and a bag's folder is the recorder's."""
    drive = bag.parent if bag.is_file() and (bag.parent / "metadata.yaml").exists() else bag
    for folder in (drive, *(Path(bundle) for bundle in (settings.bundle, settings.fallback) if bundle)):
        if out.resolve() != folder.resolve() and out.resolve().is_relative_to(folder.resolve()):
            raise RecipeError(f"{out}: expected a new folder outside of {folder}, got one inside; give another one")


def _latencies(rows: list[tuple[float, ...]], counts: Mapping[str, Counts]) -> dict[str, Latency]:
    columns = list(zip(*rows, strict=True)) or [()] * (len(STAGES) + 1)
    lost = sum(camera.received - camera.published for camera in counts.values())
    found = {name: Latency(tuple(column)) for name, column in zip(STAGES, columns[:-1], strict=True)}
    return {**found, TOTAL: Latency((*columns[-1], *[LATE] * lost))}


def _drive(node: Node, frames: Iterable[Recorded], clock: JumpingClock, what: Replay, seen: NewBag) -> int:
    """Let the node have every frame at its time; returns how long the recording is, in nanoseconds."""
    first, last, next_report = None, 0, 0
    for recorded in frames:
        if first is None:
            first = recorded.recorded_ns
            _start(node, clock, first)
        _work_until(node, clock, recorded.recorded_ns, what.free)
        if what.free and node.counts[recorded.camera].pending:
            # One of the same moment, or that waits for other cameras: this one would take its place.
            _work_until(node, clock, math.inf, what.free)
        _receive(node, clock, recorded)
        last = recorded.recorded_ns
        if last >= next_report:
            node.report()
            node.save_samples()
            next_report = last + round(what.settings.report_every_ms * MS)
        _check(node, seen)
    _work_until(node, clock, last + round(what.settings.max_age_ms * MS), what.free)
    node.report()
    node.save_samples()
    _check(node, seen)
    return last - (first or last)


def _check(node: Node, seen: NewBag) -> None:
    """Raise OutputError where something could not be written, EngineError where the node stopped."""
    seen.check()
    if node.state != State.ACTIVE:
        raise EngineError(f"replay: expected a node that serves, got one that stopped: {node.snapshot().engines.fault}")


def _start(node: Node, clock: JumpingClock, at_ns: int) -> None:
    clock.jump(at_ns)
    order: tuple[Transition, ...] = ("configure", "activate")
    for transition in order:
        step = node.transition(transition)
        if step.outcome != "success":
            raise EngineError(step.reason)


def _receive(node: Node, clock: JumpingClock, recorded: Recorded) -> None:
    """Deliver a frame at the time of its recording, though the node may have worked beyond that."""
    now = clock.now_ns()
    clock.jump(recorded.recorded_ns)
    node.receive(recorded.camera, recorded.frame)
    clock.jump(max(now, recorded.recorded_ns))


def _work_until(node: Node, clock: JumpingClock, end_ns: float, free: bool) -> None:
    """Let the node do what is due before a moment, infinity for all; what it begins then may last longer."""
    while (due := node.due_ns()) is not None and max(due, clock.now_ns()) < end_ns:
        clock.jump(max(due, clock.now_ns()))
        with clock.working(free):
            worked = node.step()
        if not worked and node.due_ns() == due:
            return
