"""What a node says of itself: a pure function from what is the case to diagnostic statuses.

Keys and levels of `processing` are Autoware's (autoware_lidar_centerpoint, diagnose_processing_time), so that its
monitors read ours; the time, however, counts from the frame's arrival, and while a frame is still worked on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from ros_nodes.core.counts import Counts
from ros_nodes.core.drift import DriftView, Excess
from ros_nodes.core.lifecycle import State
from ros_nodes.core.result import Moments
from ros_nodes.core.sight import CameraState, Size
from ros_nodes.core.watch import Limits, Watch, batches_to_return

_RESIZED_FOR_NS = 5_000_000_000
"""How long a camera's new size is worth a warning."""


class Level(IntEnum):
    """The numbers of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Status:
    """One diagnostic_msgs/DiagnosticStatus; a transport puts the node's name before `name`."""

    level: Level
    name: str
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CameraView:
    """What is said of one camera; `resized_ns`: since its size changed, None where it never did."""

    state: CameraState
    why: str
    counts: Counts
    size: Size | None
    resizes: int
    resized_ns: int | None
    silent_ns: int | None


@dataclass(frozen=True)
class EngineView:
    """What is said of the engines, by their names for people; empty where there is none.

    Attributes:
        active: that the next frame goes to.
        fault: why the node is not active though nobody deactivated it.
        swap: how the last swap went.
        swap_failed: whether that was badly.
        not_closed: why an engine could not be closed; its memory may be lost.
        transport_error: what the transport raised last.
    """

    active: str = ""
    primary: str = ""
    fallback: str = ""
    fault: str = ""
    swap: str = ""
    swap_failed: bool = False
    not_closed: str = ""
    transport_error: str = ""


@dataclass(frozen=True)
class Snapshot:
    """All that diagnostics speak of, at one moment.

    Attributes:
        limits: None before a bundle is loaded.
        max_delay_ns: how long the deadline may be missed before that is an error.
        working_ns: since the first frame of the batch that is worked on came; None where none is.
        moments: of the last result.
    """

    now_ns: int
    state: State
    engines: EngineView
    watch: Watch
    limits: Limits | None
    max_delay_ns: int
    working_ns: int | None
    moments: Moments | None
    cameras: Mapping[str, CameraView]
    drift: DriftView = field(default_factory=DriftView)


def diagnose(seen: Snapshot) -> tuple[Status, ...]:
    """The statuses `processing`, `engine`, `drift`, and `camera NAME` of every camera."""
    cameras = (_camera(name, view, seen.state) for name, view in seen.cameras.items())
    return (_processing(seen), _engine(seen), _drift(seen), *cameras)


def _processing(seen: Snapshot) -> Status:
    took_ns = _took_ns(seen)
    if seen.limits is None or seen.state != State.ACTIVE or took_ns is None:
        return Status(Level.OK, "processing", _not_yet(seen.state, "result"))
    in_range = took_ns <= seen.limits.deadline_ns
    delay_ns = _delay_ns(seen)
    delay_in_range = delay_ns <= seen.max_delay_ns
    values = {
        "processing_time_ms": _ms(took_ns),
        "is_processing_time_ms_in_expected_range": str(in_range),
        "consecutive_processing_delay_ms": _ms(delay_ns),
        "is_consecutive_processing_delay_in_range": str(delay_in_range),
        "deadline_ms": _ms(seen.limits.deadline_ns),
        "consecutive_misses": str(seen.watch.misses),
        "total_misses": str(seen.watch.total_misses),
    }
    if seen.moments is not None:
        values |= {f"{stage}_time_ms": f"{ms:.3f}" for stage, ms in seen.moments.stages_ms.items()}
    return Status(*_judge(took_ns, in_range, delay_in_range, seen), values)


def _delay_ns(seen: Snapshot) -> int:
    """How long the deadline has been missed: up to the last batch, or to now where one is worked on."""
    if seen.watch.late_since_ns is None:
        return 0
    return (seen.watch.late_until_ns if seen.working_ns is None else seen.now_ns) - seen.watch.late_since_ns


def _judge(took_ns: int, in_range: bool, delay_in_range: bool, seen: Snapshot) -> tuple[Level, str, str]:
    deadline = _ms(seen.limits.deadline_ns if seen.limits else 0)
    if not delay_in_range:
        return Level.ERROR, "processing", f"the deadline of {deadline} ms is missed for {_ms(seen.max_delay_ns)} ms"
    if not in_range:
        return Level.WARN, "processing", f"{_ms(took_ns)} ms, beyond the deadline of {deadline} ms"
    return Level.OK, "processing", "OK"


def _took_ns(seen: Snapshot) -> int | None:
    """What the last batch took; what the one at work has taken so far, where that is beyond the deadline already."""
    if seen.working_ns is not None and seen.limits is not None and seen.working_ns > seen.limits.deadline_ns:
        return max(seen.working_ns, seen.watch.took_ns or 0)
    return seen.watch.took_ns


def _engine(seen: Snapshot) -> Status:
    engines, watch = seen.engines, seen.watch
    values = {
        "lifecycle": seen.state.label,
        "active_engine": engines.active,
        "engine": engines.primary,
        "fallback_engine": engines.fallback,
        "is_on_fallback": str(watch.on_fallback),
        "fallback_count": str(watch.fallbacks),
        "return_count": str(watch.returns),
        "last_swap": engines.swap,
        "last_close_error": engines.not_closed,
        "last_transport_error": engines.transport_error,
    }
    if watch.on_fallback and seen.limits is not None:
        values["inferences_to_return"] = str(batches_to_return(watch, seen.limits) - watch.easy)
    if engines.fault:
        return Status(Level.ERROR, "engine", engines.fault, values)
    if watch.on_fallback:
        return Status(Level.WARN, "engine", f"the deadline was missed: on the fallback, {engines.active}", values)
    if engines.swap_failed:
        return Status(Level.WARN, "engine", engines.swap, values)
    if engines.not_closed:
        return Status(Level.WARN, "engine", engines.not_closed, values)
    return Status(Level.OK, "engine", "OK" if engines.active else seen.state.label, values)


def _drift(seen: Snapshot) -> Status:
    view = seen.drift
    watched = sum(camera.watched for camera in view.cameras.values())
    values = {
        "watched": str(watched),
        "samples_saved": str(view.saved),
        "samples_refused": str(view.refused),
        "errors": str(view.errors),
        "last_error": view.error,
    }
    if not view.on or not view.known:
        return Status(Level.OK, "drift", _unwatched(seen), values)
    for name, camera in view.cameras.items():
        values |= {f"{name}": "drifting" if camera.drifting else "ok", f"{name}_worst": _said(camera.worst)}
    drifting = [f"{name}: {_said(camera.worst)}" for name, camera in view.cameras.items() if camera.drifting]
    if drifting:
        return Status(Level.WARN, "drift", f"unlike the calibration images: {'; '.join(drifting)}", values)
    if not watched:
        return Status(Level.OK, "drift", _not_yet(seen.state, "image"), values)
    return Status(Level.OK, "drift", "OK", values)


def _unwatched(seen: Snapshot) -> str:
    if not seen.drift.on:
        return "off"
    return "no calibration statistics" if seen.engines.active else seen.state.label


def _not_yet(state: State, what: str) -> str:
    return f"waiting for the first {what}" if state == State.ACTIVE else state.label


def _said(worst: Excess | None) -> str:
    if worst is None:
        return ""
    return f"{worst.figure} {worst.value:.4g}, calibrated on {worst.band.low:.4g} to {worst.band.high:.4g}"


def _camera(name: str, view: CameraView, state: State) -> Status:
    counts = view.counts
    values = {
        "state": view.state,
        "received": str(counts.received),
        "published": str(counts.published),
        "pending": str(counts.pending),
        **{f"dropped_{reason}": str(number) for reason, number in counts.dropped.items()},
        **{f"stale_age_{band}": str(number) for band, number in counts.stale_ages.items()},
        "size": "" if view.size is None else f"{view.size[1]}x{view.size[0]}",
        "resizes": str(view.resizes),
    }
    if state != State.ACTIVE:
        return Status(Level.OK, f"camera {name}", state.label, values)
    return Status(*_judge_camera(name, view), values)


def _judge_camera(name: str, view: CameraView) -> tuple[Level, str, str]:
    title = f"camera {name}"
    match view.state:
        case "waiting" if view.silent_ns is None:
            return Level.WARN, title, "waiting for the first image"
        case "waiting":
            return Level.ERROR, title, f"waiting: no image for {_ms(view.silent_ns or 0)} ms"
        case "stale" | "rejected":
            return Level.ERROR if view.state == "rejected" else Level.WARN, title, f"{view.state}: {view.why}"
        case _ if view.resized_ns is not None and view.resized_ns <= _RESIZED_FOR_NS:
            return Level.WARN, title, "resized: its images have another size than before"
        case _:
            return Level.OK, title, "OK"


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.3f}"
