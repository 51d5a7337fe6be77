"""A managed node without a transport: frames in, results out, its contract watched, its lifecycle that of ROS 2.

Three callers, each from threads of its own: the transport (`receive`, `transition`, `swap`), one worker (`step`), and a
watchdog that no frame drives (`watch`, `report`). A lock guards what they share; loading, inference and publishing go
without it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from avcompress.spec import Array, EngineError, RecipeError
from calibration.frame import Frame, to_rgb
from engines.session import one_line
from ros_nodes.core.clock import REAL, Clock
from ros_nodes.core.counts import Counts
from ros_nodes.core.desk import Desk
from ros_nodes.core.diagnostics import Snapshot, diagnose
from ros_nodes.core.drift_watch import DriftWatch, Glance
from ros_nodes.core.intake import Waiting
from ros_nodes.core.job import Job
from ros_nodes.core.lifecycle import State, Step, Transition, begin, conclude
from ros_nodes.core.loading import Load, load_one, load_pair
from ros_nodes.core.look import look
from ros_nodes.core.on_board import OnBoard, close_all
from ros_nodes.core.port import Announcement, Port
from ros_nodes.core.result import Moments, Result
from ros_nodes.core.served import load_served
from ros_nodes.core.settings import MS, Settings
from ros_nodes.core.tracing import tracer


class Node:
    """Serves a bundle to cameras."""

    def __init__(self, settings: Settings, port: Port, clock: Clock = REAL, load: Load = load_served) -> None:
        self._settings, self._port, self._clock, self._load = settings, port, clock, load
        self._lock = threading.Condition()
        self._state, self._trace = State.UNCONFIGURED, tracer()
        # Who is announcing the engine: one after the other, for the last one is what subscribers believe.
        self._announcer: object | None = None
        self._announcing_ns = 0
        self._desk, self._engines, self._drift = Desk(settings), OnBoard(settings), DriftWatch(settings)
        self._job: Job | None = None
        # With those that hang and were given up: what they use cannot be closed.
        self._running: list[Job] = []
        self._generation = 0
        self._moments: Moments | None = None
        self._fault = self._transport_error = ""

    # --- lifecycle

    @property
    def state(self) -> State:
        """Where in its lifecycle the node is."""
        return self._state

    @property
    def settings(self) -> Settings:
        """What it was told."""
        return self._settings

    @property
    def generation(self) -> int:
        """Changes when the worker was given up because it hangs: another one has to take its place."""
        return self._generation

    def transition(self, name: Transition) -> Step:
        """Do what is asked, and say how it went; raises LifecycleError where the state does not have it."""
        with self._lock:
            self._state = begun = begin(self._state, name)
        return self._conclude(begun, name)

    def fail(self, reason: str) -> None:
        """Deactivate unasked; without effect where the node is not active any more."""
        with self._lock:
            if self._state != State.ACTIVE:
                return
            self._state = begun = begin(self._state, "fail")
        self._conclude(begun, "fail", reason)

    def _conclude(self, begun: State, name: Transition, reason: str = "") -> Step:
        actions: dict[Transition, Callable[[], None]] = {
            "configure": self._configure,
            "activate": self._activate,
            "deactivate": self._stop,
            "fail": self._stop,
            "cleanup": self._free,
            "shutdown": self._shut_down,
        }
        step = conclude(begun, actions[name], self._shut_down)
        step = replace(step, reason=step.reason or reason, transition=name)
        with self._lock:
            self._state, self._fault = step.state, step.reason
        self._tell(partial(self._port.changed, step))
        return step

    def _configure(self) -> None:
        pair = load_pair(self._settings, self._load)
        with self._lock:
            self._engines.board(pair)

    def _activate(self) -> None:
        with self._lock:
            self._refuse_hanging()
            if self._engines.primary is None:
                raise EngineError("activate: expected an engine, got none; clean up, and configure again")
            self._engines.begin()
            self._desk.forget()
            self._drift.forget()
            self._moments = None
            self._await_announcement()
        self._announce(State.ACTIVATING, object())
        self._port.subscribe(self._settings.cameras, self.receive)

    def _refuse_hanging(self) -> None:
        if self._job is not None and self._job.hung:
            raise EngineError(
                f"{self._job.served.name}: expected an engine that answers, got one that still hangs; clean up, and "
                "configure again"
            )

    def _await_announcement(self) -> None:
        """Let that of a worker end first; raises EngineError where it does not."""
        found = self._engines.limits
        patience_s = threading.TIMEOUT_MAX if found is None else min(found.hang_ns / 1e9, threading.TIMEOUT_MAX)
        if not self._lock.wait_for(lambda: self._announcer is None, patience_s):
            raise EngineError(
                f"activate: expected the announcement that is under way to end, got none for {patience_s:g} s; look at "
                "the transport, clean up, and configure again"
            )

    def _stop(self) -> None:
        try:
            self._port.unsubscribe()
        finally:
            with self._lock:
                self._desk.clear()
                if self._job is not None:
                    self._job.cancel("inactive")
                self._swap_unless_serving()

    def _free(self) -> None:
        with self._lock:
            self._engines.retire_all()
            if self._announcer is not None or (self._job is not None and self._job.hung):
                self._give_up()
        self._close_retired()

    def _shut_down(self) -> None:
        try:
            self._stop()
        finally:
            self._free()

    # --- frames

    def receive(self, camera: str, frame: Frame) -> None:
        """Take what a camera sent; from any thread, and returns at once. Raises RecipeError for an unknown camera."""
        if camera not in self._desk:
            cameras = ", ".join(self._settings.cameras)
            raise RecipeError(f"camera: expected one of {cameras}, got {camera!r}; name it in `cameras`")
        now, age = self._clock.monotonic_ns(), 0
        if self._settings.age_from == "stamp":
            age = max(self._clock.stamp_ns() - frame.header.stamp_ns, 0)
        with self._lock:
            if self._state != State.ACTIVE:
                self._desk.turn_away(camera)
                return
            self._desk.accept(camera, frame, now, age)
            self._lock.notify_all()

    # --- the worker

    def wait(self, timeout_s: float) -> None:
        """Return when there may be something for `step` to do, or after `timeout_s` of real time."""
        with self._lock:
            due = self.due_ns()
            left_s = timeout_s if due is None else (due - self._clock.monotonic_ns()) / 1e9
            if left_s > 0:
                self._lock.wait(min(left_s, timeout_s))

    def due_ns(self) -> int | None:
        """When `step` will have something to do, by the monotonic clock; None where nothing waits."""
        with self._lock:
            served = self._engines.active
            if self._state != State.ACTIVE or self._job is not None or served is None:
                return None
            return self._clock.monotonic_ns() if self._engines.has_next else self._desk.due_ns(served.capacity)

    def step(self) -> bool:
        """Serve the frames whose turn it is; False where there are none. One thread at a time."""
        job = self._take()
        self._tell(partial(self._announce, State.ACTIVE, job or object()))
        if job is None:
            self._close_retired()
            return False
        try:
            results = self._results(job)
        except Exception as error:  # whatever a runtime raises, the node has to say so and live on
            self._fail_inference(job, error)
        else:
            out = self._publish(job, results)
            self._count_inference(job, results)
            for result, at_ns in out:
                self._tell(partial(self._port.follow_up, result, at_ns))
                self._tell(partial(self._trace, result, at_ns))
            self._drift.look(job.served, job.glances, self._clock.monotonic_ns())
        finally:
            self._end(job)
        return True

    def _take(self) -> Job | None:
        with self._lock:
            if self._state != State.ACTIVE or self._job is not None:
                return None
            self._engines.swap()
            served, now = self._engines.active, self._clock.monotonic_ns()
            batch = () if served is None else self._desk.take(now, served.capacity)
            if served is None or not batch:
                return None
            found = self._engines.limits
            self._job = Job(served, batch, now, math.inf if found is None else found.hang_ns, self._desk.drop)
            self._running.append(self._job)
            return self._job

    def _results(self, job: Job) -> list[Result]:
        images = self._decoded(job)
        decoded_ns = self._clock.monotonic_ns()
        if not images:
            return []
        looked = look(job.served, [image for _, image in images], self._clock.monotonic_ns)
        job.glances = tuple(
            Glance(waiting.camera, waiting.frame, prepared, outputs)
            for (waiting, _), prepared, outputs in zip(images, looked.prepared, looked.outputs, strict=True)
        )
        return [
            Result(
                camera=waiting.camera,
                header=waiting.frame.header,
                size=(image.shape[0], image.shape[1]),
                prediction=prediction,
                engine=job.served.name,
                moments=Moments(waiting.arrived_ns, job.taken_ns, decoded_ns, *looked.ends),
            )
            for (waiting, image), prediction in zip(images, looked.predictions, strict=True)
        ]

    def _decoded(self, job: Job) -> list[tuple[Waiting, Array]]:
        images = []
        for waiting in job.batch:
            try:
                image = to_rgb(waiting.frame)
            except Exception as error:  # a decoder raises nearly anything; one camera's image stops no other camera
                with self._lock:
                    job.drop(waiting.camera, "rejected")
                    self._desk.reject(waiting.camera, _undecoded(error))
                continue
            with self._lock:
                self._desk.measure(waiting.camera, image, self._clock.monotonic_ns())
            images.append((waiting, image))
        return images

    def _publish(self, job: Job, results: list[Result]) -> list[tuple[Result, int]]:
        """Those that were sent, and when."""
        out = []
        for result in results:
            with self._lock:
                if not job.leave(result.camera):
                    continue
            sent = self._tell(partial(self._port.publish, result))
            if sent:
                out.append((result, self._clock.monotonic_ns()))
            with self._lock:
                job.arrive()
                self._desk.settle(result.camera, sent)
                self._moments = result.moments
        return out

    def _count_inference(self, job: Job, results: list[Result]) -> None:
        with self._lock:
            job.done = True
            if results and not job.cancelled:
                now = self._clock.monotonic_ns()
                self._engines.served(now, now - job.first_ns, job.missed)

    def _fail_inference(self, job: Job, error: Exception) -> None:
        reason = f"{job.served.name}: inference failed: {one_line(error)}"
        with self._lock:
            must_stop = not job.cancelled and self._engines.failed(reason)
            job.cancel("failed")
        if must_stop:
            self.fail(reason)

    def _end(self, job: Job) -> None:
        with self._lock:
            # Nothing is open here, unless the worker's thread is ending by what is no Exception.
            job.cancel("failed")
            self._running.remove(job)
            if self._job is job:
                self._job = None
                self._swap_unless_serving()
                self._lock.notify_all()
        self._close_retired()

    def _close_retired(self) -> None:
        with self._lock:
            free = self._engines.take_retired([job.served for job in self._running])
        reasons = close_all(free)
        with self._lock:
            self._engines.not_closed(reasons)

    # --- the contract

    def watch(self) -> None:
        """Look whether a deadline has passed or the inference hangs; to be called a few times in every deadline."""
        with self._lock:
            job, now = self._job, self._clock.monotonic_ns()
            reason = self._stuck(now) if job is None else self._hang(job, now)
        if reason:
            self.fail(reason)

    def _hang(self, job: Job, now_ns: int) -> str:
        """Count a deadline that has passed; why the node has to stop, where the engine hangs and none replaces it."""
        found = self._engines.limits
        late = found is not None and now_ns - job.first_ns > found.deadline_ns
        if late and not (job.missed or job.done or job.cancelled):
            job.missed = True
            self._engines.missed(now_ns)
        if now_ns - job.taken_ns <= job.hang_ns:
            return ""
        job.hung = True
        job.cancel("hung")
        reason = job.hanging(now_ns)
        if self._engines.hung(job.served, reason):
            return reason
        self._give_up()
        return ""

    def _stuck(self, now_ns: int) -> str:
        """Why the node has to stop, where a worker without frames announces an engine and does not come back."""
        found, waited_ns = self._engines.limits, now_ns - self._announcing_ns
        if self._announcer is None or found is None or waited_ns <= found.hang_ns:
            return ""
        return f"transport: hangs: an announcement has not ended for {waited_ns / MS:.0f} ms"

    def _give_up(self) -> None:
        # A thread cannot be ended. What it holds is closed when it comes back, if ever; another one takes its place.
        self._job = self._announcer = None
        self._generation += 1
        self._lock.notify_all()

    # --- hot swap

    def swap(self, folder: Path) -> None:
        """Load, verify and warm up another bundle beside the one that serves, and let it take over between frames.

        The one before comes back where the new one fails, or misses its deadline too often, within `probation`
        inferences. Raises what load_served raises, and EngineError for a bundle whose results mean something else; the
        node goes on as before then.
        """
        try:
            new = load_one(self._settings, self._load, folder)
            try:
                with self._lock:
                    self._refuse_hanging()
                    self._engines.offer(new)
                    self._swap_unless_serving()
                    self._lock.notify_all()
            except BaseException:
                close_all([new])
                raise
        except Exception as error:
            with self._lock:
                self._engines.refuse(one_line(error))
            raise

    def _swap_unless_serving(self) -> None:
        """Where no worker would do it between two frames."""
        if self._state != State.ACTIVE and self._job is None:
            self._engines.swap()

    def _announce(self, during: State, by: object) -> None:
        """Tell subscribers of the engine where it is new, the node is in that state, and nobody else is telling them.

        Raises what the transport does; the announcement is due again then.
        """
        while (news := self._news(during, by)) is not None:
            told = False
            try:
                self._port.announce(news)
                told = True
            finally:
                self._announced(by, told)

    def _news(self, during: State, by: object) -> Announcement | None:
        with self._lock:
            primary, found = self._engines.primary, self._engines.limits
            if not self._engines.is_new or primary is None or found is None or self._state != during:
                return None
            if self._announcer is not None:
                return None
            self._engines.is_new, self._announcer = False, by
            self._announcing_ns = self._clock.monotonic_ns()
        return Announcement(
            kind=primary.task.kind,
            name=primary.manifest.name,
            revision=primary.manifest.revision,
            classes=primary.manifest.classes,
            threshold=primary.threshold,
            deadline_ms=found.deadline_ns / MS,
        )

    def _announced(self, by: object, told: bool) -> None:
        with self._lock:
            # What a worker says that was given up meanwhile may be heard last: it is said anew.
            given_up = self._announcer is not by
            if not given_up:
                self._announcer = None
            if given_up or not told:
                self._engines.is_new = True
            self._lock.notify_all()

    def _tell(self, message: Callable[[], None]) -> bool:
        """Whether the transport took it; what it raised is in the diagnostics."""
        try:
            message()
        except Exception as error:  # a transport may raise anything, and the next message may go through
            with self._lock:
                self._transport_error = one_line(error)
            return False
        return True

    # --- drift

    def save_samples(self) -> None:
        """Write the images that the drift watch kept; may take as long as the disk does, so in a thread of its own."""
        self._drift.save()

    # --- what it says of itself

    @property
    def counts(self) -> dict[str, Counts]:
        """Where every frame went, by camera, at one moment."""
        with self._lock:
            return self._desk.counts

    @property
    def pending(self) -> int:
        """Frames that wait, or are being worked on."""
        with self._lock:
            return len(self._desk) + sum(job.pending for job in self._running)

    def report(self) -> None:
        """Send the diagnostics."""
        self._tell(lambda: self._port.report(diagnose(self.snapshot())))

    def snapshot(self) -> Snapshot:
        """All that diagnostics speak of, at one moment."""
        with self._lock:
            now, job = self._clock.monotonic_ns(), self._job
            # Also of one that hangs since the node was deactivated.
            fault = self._fault or (job.hanging(now) if job is not None and job.hung else "")
            return Snapshot(
                now_ns=now,
                state=self._state,
                engines=self._engines.view(fault, self._transport_error),
                watch=self._engines.watch,
                limits=self._engines.limits,
                max_delay_ns=round(self._settings.max_consecutive_delay_ms * MS),
                working_ns=None if job is None or job.done else now - job.first_ns,
                moments=self._moments,
                cameras=self._desk.views(now),
                drift=self._drift.view(self._engines.active),
            )


def _undecoded(error: Exception) -> str:
    """Why an image could not be decoded; an error without words is named by its kind."""
    return one_line(error) or f"image: expected one that can be decoded, got {type(error).__name__}; look at the camera"
