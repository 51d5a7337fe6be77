"""A node's threads against each other in real time: what ros_soak.py, whose story is told by one thread, cannot find.

    python benchmarks/ros_soak_threads.py [--seconds S] [--seed N]

Worker, watchdog and samples thread are the node's own. Beside them three cameras send, one thread swaps bundles, one
asks for transitions, one looks at everything that can be asked of a node. Time runs SCALE times as fast as it passes.

Chaos and order take turns. In chaos all threads do what they like, and engines are slow, fail or block at random. In
order, cameras alone go on: a run of slow inferences has to end on the fallback, and keeping the deadline has to lead
back; a bundle that blocks or fails on trial has to be rolled back with the node active; an engine that blocks has to
stop the node, which has to serve again after cleanup and configure. After each turn the cameras rest, and the books
have to be exact: received = sent = published + dropped, published = heard, no result twice or out of its order.

Ends with 1 where anything of that is not so, an engine is run after it was closed, closed while it runs, run by two
threads at once or left open, a transition ends in an error, or a thread is left over. Ends with all stacks on stderr
where a turn takes more than a minute: a deadlock.
"""

import argparse
import contextlib
import faulthandler
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from ros_planted import boxes, planted

from avcompress.spec import Array, EngineError
from calibration.frame import Header, RawImage
from ros_nodes.core.clock import Clock
from ros_nodes.core.lifecycle import LifecycleError, State, Transition
from ros_nodes.core.node import Node
from ros_nodes.core.result import Result
from ros_nodes.core.served import Served
from ros_nodes.core.settings import Settings
from ros_nodes.core.threads import Threads
from ros_nodes.in_process import InProcess

SCALE = 10
START = 10**18
STUCK_S = 60.0
PATIENCE_S = 20.0
CHAOS_S = 5.0
CAMERAS = ("front", "left", "right")
PIXELS = np.full(8 * 8 * 3, 99, np.uint8)
DEADLINE_MS, HANG_MS = 500.0, 20_000.0
SLOW_S = 2 * DEADLINE_MS / SCALE / 1e3
SETTINGS = Settings(
    bundle="main",
    fallback="small",
    allow_unsigned=True,
    cameras=CAMERAS,
    deadline_ms=DEADLINE_MS,
    hang_ms=HANG_MS,
    max_age_ms=5_000,
    fall_back_after=3,
    return_after=10,
    probation=20,
    report_every_ms=20,
)


class Soak:
    """A node, and all that goes on around it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (a story, no secret)
        self.begun_ns = time.monotonic_ns()
        self.lock = threading.Lock()
        self.opened = self.open = 0
        self.trouble: dict[str, str] = {}
        self.release = threading.Event()
        self.sent: Counter[str] = Counter()
        self.heard: dict[str, list[int]] = {camera: [] for camera in CAMERAS}
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self.over, self.rest, self.chaos = threading.Event(), threading.Event(), threading.Event()
        port = InProcess(self.hear, on_change=lambda step: self.check(step.outcome != "error", step.reason))
        self.node = Node(SETTINGS, port, Clock(self.now_ns, self.now_ns), self.load)

    def now_ns(self) -> int:
        """Time that runs faster than it passes."""
        return START + SCALE * (time.monotonic_ns() - self.begun_ns)

    def check(self, kept: bool, problem: str) -> None:
        """Note what is not as it must be; from any thread."""
        if not kept:
            with self.lock:
                self.problems.append(f"after {self.now_ns() - START} ns, {dict(self.done)}: {problem}")

    # --- engines and the transport

    def load(self, folder: Path, *_: object) -> Served:
        """What load_served gives or raises, and takes a while for."""
        time.sleep(0.01)
        if folder.name == "forged":
            raise EngineError("forged: expected a signature by one of 1 keys, got another one; sign it")
        running, closed = threading.Lock(), threading.Event()

        def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            self.check(running.acquire(blocking=False), f"{folder}: two threads run it at once")
            try:
                self.check(not closed.is_set(), f"{folder}: run after it was closed")
                self.work(folder.name)
                self.check(not closed.is_set(), f"{folder}: closed while it ran")
            finally:
                running.release()
            return boxes(inputs)

        def close() -> None:
            self.check(not closed.is_set(), f"{folder}: closed twice")
            closed.set()
            with self.lock:
                self.open -= 1
                must_fail = self.opened % 7 == 0
            if must_fail:
                raise RuntimeError("planted: cudaFree failed")

        served = planted(run, name=folder.name)
        served.session.close = close  # type: ignore[method-assign]
        with self.lock:
            self.open += 1
            self.opened += 1
        return served

    def work(self, name: str) -> None:
        """Take a millisecond, or do what is planted; what blocks or fails does so once."""
        with self.lock:
            trouble = self.trouble.get(name, "")
            if trouble in {"blocks", "fails"}:
                del self.trouble[name]
            release = self.release
        match trouble:
            case "blocks":
                release.wait(STUCK_S)
            case "fails":
                raise RuntimeError("planted")
            case "slow":
                time.sleep(SLOW_S)
            case _:
                time.sleep(0.001)

    def plant(self, trouble: str, *names: str) -> None:
        """Let engines do it from now on."""
        with self.lock:
            self.trouble |= dict.fromkeys(names, trouble)

    def calm(self) -> None:
        """Let every engine do well, those that block, too."""
        with self.lock:
            self.trouble.clear()
            self.release.set()
            self.release = threading.Event()

    def hear(self, result: Result) -> None:
        """Take a result, or refuse it now and then."""
        if result.header.stamp_ns % 97 == 0:
            raise OSError("planted: no buffer space")
        self.heard[result.camera].append(result.header.stamp_ns)

    # --- threads

    def send(self, camera: str) -> None:
        """A camera."""
        while not self.over.wait(0.005):
            if not self.rest.is_set():
                self.sent[camera] += 1
                stamp = self.now_ns()
                header = Header(stamp // 10**9, stamp % 10**9, camera)
                self.node.receive(camera, RawImage(header, 8, 8, "rgb8", 24, PIXELS))

    def swap(self) -> None:
        """Who brings bundles."""
        choice = random.Random(1)  # noqa: S311
        while not self.over.wait(choice.uniform(0, 0.1)):
            if self.chaos.is_set():
                with contextlib.suppress(EngineError):
                    self.node.swap(Path(choice.choice(["one", "two", "forged"])))

    def ask(self) -> None:
        """A manager who cannot make up his mind."""
        choice = random.Random(2)  # noqa: S311
        names: tuple[Transition, ...] = ("deactivate", "cleanup", "configure", "activate", "configure", "activate")
        while not self.over.wait(choice.uniform(0, 0.3)):
            if self.chaos.is_set():
                with contextlib.suppress(LifecycleError):
                    self.node.transition(choice.choice(names))

    def look(self) -> None:
        """Who asks for all that can be asked for."""
        while not self.over.wait(0.002):
            self.node.report()
            self.check(all(counts.pending >= 0 for counts in self.node.counts.values()), "more ended than was received")
            self.check(self.node.pending >= 0, "less than nothing is pending")

    @contextlib.contextmanager
    def company(self) -> Iterator[None]:
        """All of them, within the block."""
        threads = [threading.Thread(target=self.send, args=(camera,)) for camera in CAMERAS]
        threads += [threading.Thread(target=work) for work in (self.swap, self.ask, self.look)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join(STUCK_S)

    # --- the story

    def live(self, seconds: float) -> bool:
        """Tell it; False where something was not as it must be."""
        at_rest, end = threading.active_count(), time.monotonic() + seconds
        with Threads(self.node, watch_every_s=0.002), self.company():
            turns: tuple[Callable[[], None], ...] = (self.slow, self.on_trial, self.blocked)
            while time.monotonic() < end and not self.problems:
                for turn in (self.confusion, self.random.choice(turns)):
                    faulthandler.dump_traceback_later(STUCK_S, exit=True)
                    turn()
                    self.done[turn.__name__] += 1
                    self.balance()
            self.node.transition("shutdown")
        faulthandler.cancel_dump_traceback_later()
        self.check(self.open == 0, f"{self.open} of {self.opened} engines are open after the node has shut down")
        self.check(threading.active_count() == at_rest, f"threads are left: {threading.enumerate()}")
        self.tell()
        return not self.problems

    def confusion(self) -> None:
        """Everything at once."""
        self.chaos.set()
        end = time.monotonic() + CHAOS_S
        while time.monotonic() < end:
            self.plant(self.random.choice(["slow", "fails", "blocks"]), self.random.choice(["main", "small", "one"]))
            time.sleep(self.random.uniform(0, 0.6))
            if self.random.random() < 0.2:
                self.calm()
        self.chaos.clear()
        self.calm()
        self.serve_anew()

    def slow(self) -> None:
        """A run of slow inferences."""
        self.plant("slow", "main")
        self.until(lambda: self.node.snapshot().watch.on_fallback, "the fallback")
        self.calm()
        self.until(lambda: not self.node.snapshot().watch.on_fallback, "the way back")
        self.until_served()

    def on_trial(self) -> None:
        """A bundle that does not pass its trial."""
        generation, trouble = self.node.generation, self.random.choice(["blocks", "fails"])
        self.plant(trouble, "one")
        self.node.swap(Path("one"))
        self.until(lambda: "rolled back" in self.node.snapshot().engines.swap, "the bundle before")
        self.check(self.node.state == State.ACTIVE, f"a bundle that {trouble} on trial stopped the node")
        self.check(self.node.generation == generation + (trouble == "blocks"), f"{trouble}: not as many workers")
        self.until_served()
        self.calm()

    def blocked(self) -> None:
        """An engine that blocks, until the node serves with another one."""
        self.plant("blocks", "main")
        self.until(lambda: self.node.state == State.INACTIVE, "the node to stop", revive=False)
        self.check("hangs: no answer" in self.node.snapshot().engines.fault, "a node that stopped does not say why")
        self.serve_anew()
        self.calm()

    def serve_anew(self) -> None:
        """What a manager does after an error, and what has to come of it."""
        self.begin()
        self.check(self.node.state == State.ACTIVE, f"a node begun anew is {self.node.state.label}")
        self.until_served()

    def begin(self) -> None:
        """Bring the node to where it serves, from wherever it is."""
        names: tuple[Transition, ...] = ("deactivate", "cleanup", "configure", "activate")
        for name in names:
            with contextlib.suppress(LifecycleError):
                self.node.transition(name)

    def until_served(self) -> None:
        """Some more of every camera."""
        before = {camera: len(stamps) for camera, stamps in self.heard.items()}
        self.until(lambda: all(len(self.heard[camera]) > before[camera] + 2 for camera in CAMERAS), "results")

    def until(self, condition: Callable[[], bool], what: str, revive: bool = True) -> None:
        """Wait for what other threads do; a machine that stalls for so long that an engine hangs is no fault of it."""
        self.done["waits"] += 1
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if revive and self.node.state == State.INACTIVE:
                self.done["stalls"] += 1
                self.begin()
            if time.monotonic() > end:
                self.check(False, f"waited for {what}; {self.node.state.label}, {self.node.snapshot().engines}")
                return
            time.sleep(0.001)

    def balance(self) -> None:
        """Let the cameras rest, and look at the books."""
        self.rest.set()
        time.sleep(0.05)
        self.until(lambda: self.node.pending == 0, "what is pending")
        for camera, counts in self.node.counts.items():
            stamps = self.heard[camera]
            dropped = sum(counts.dropped.values())
            self.check(counts.received == self.sent[camera], f"{camera}: {self.sent[camera]} sent, {counts}")
            self.check(counts.received == counts.published + dropped, f"{camera}: {counts}")
            self.check(counts.published == len(stamps), f"{camera}: {len(stamps)} heard, {counts}")
            self.check(stamps == sorted(set(stamps)), f"{camera}: results twice, or out of their order")
        self.rest.clear()

    def tell(self) -> None:
        """What became of every image."""
        counts = self.node.counts.values()
        dropped = {reason: sum(c.dropped[reason] for c in counts) for reason in next(iter(counts)).dropped}
        print(
            f"{(self.now_ns() - START) / 6e10:.1f} min of node time in {(self.now_ns() - START) / SCALE / 1e9:.0f} s: "
            f"{sum(self.sent.values())} images sent = {sum(c.published for c in counts)} published + "
            f"{sum(dropped.values())} dropped {dropped}\nturns: {dict(self.done)}, {self.opened} engines opened, "
            f"{self.node.generation} workers given up"
        )
        for problem in self.problems[:20]:
            print(problem)


def main() -> int:
    """Run it, and print what became of every image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kept = Soak(given.seed).live(given.seconds)
    print(f"load of this machine now: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\nkept: {kept}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
