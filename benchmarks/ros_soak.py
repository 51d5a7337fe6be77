"""An hour of a node's life on the wire, with faults at random, on a clock that is turned: minutes of real time.

    python benchmarks/ros_soak.py [--hours H] [--seed S]

A camera of another participant sends ten images a second over the loopback; each is served before the clock is turned.
Faults, each about once in 100 images: a damaged image, a wrong encoding, another size, a camera that is killed and
comes back, an engine that is slow, hangs or fails, a swap to a bundle with a bad signature, and one to a good one.
After every event the books are held against each other: received = published + dropped + pending. Every fault has to
end in the diagnostic that names it.

One thread tells it all, for exact books after every step; threads against each other: ros_soak_threads.py.

Ends with 1 where the books ever differ, a diagnostic is missing, an engine is left open, threads or file descriptors
are left over, or memory grew by more than 5 % between the first quarter and the last. Ends with all stacks on stderr
where nothing moves for a minute.
"""

import argparse
import faulthandler
import gc
import os
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ros_planted import boxes, image_bytes, planted, resident_mib

from avcompress.spec import Array, EngineError
from ros_nodes.core.clock import Clock
from ros_nodes.core.diagnostics import diagnose
from ros_nodes.core.lifecycle import State
from ros_nodes.core.served import Served
from ros_nodes.core.settings import Settings
from ros_nodes.qos import Qos
from ros_nodes.wire.names import topic_name
from ros_nodes.wire.participant import Participant
from ros_nodes.wire.serving import node_on_wire
from ros_nodes.wire.settings import Network
from ros_nodes.wiring import Wiring

MS = 1_000_000
START = 10**18
PERIOD_MS = 100.0
STUCK_S = 60.0
TOPIC = "/front/image_raw"
RELIABLE = Qos(reliability="reliable", depth=10)
FAULTS = ("damaged", "encoding", "resized", "killed", "slow", "hangs", "fails", "forged", "swapped")


class Soak:
    """A node, its camera, and the clock that both go by."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (a story, no secret)
        self.now_ns = START
        self.open = 0
        self.camera: Any = None
        self.writer: Any = None
        self.trouble = ""
        self.sent = self.number = 0
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self.network = Network(interface="lo", domain=os.getpid() % 200, tag=uuid.uuid4().hex)
        self.settings = Settings(
            bundle="planted",
            fallback="small",
            allow_unsigned=True,
            cameras=("front",),
            hang_ms=500,
            deadline_ms=50,
            fall_back_after=3,
            return_after=20,
            camera_timeout_ms=1000,
        )

    def clock(self) -> Clock:
        """Both of a node's clocks are the one that is turned."""
        return Clock(lambda: self.now_ns, lambda: self.now_ns)

    def load(self, folder: Path, *_: object) -> Served:
        """What load_served gives or raises; counts what is open."""
        if folder.name == "forged":
            raise EngineError("forged: expected a signature by one of 1 keys, got another one; sign it")
        served = planted(self.run, name=folder.name)
        self.open += 1

        def close() -> None:
            self.open -= 1

        served.session.close = close  # type: ignore[method-assign]
        return served

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """An engine that takes 5 ms, or does what is planted, once."""
        trouble, self.trouble = self.trouble, ""
        if trouble == "fails":
            raise RuntimeError("planted")
        for _ in range({"slow": 80, "hangs": 600}.get(trouble, 5)):
            self.now_ns += MS
            self.node.watch()
        return boxes(inputs)

    # --- the story

    def live(self, hours: float) -> bool:
        """Tell it; False where something was not as it must be."""
        wiring = Wiring(node="vision", topics={"front": TOPIC}, camera_qos=RELIABLE)
        begun, memory, end_ns = time.monotonic(), [], START + round(hours * 3600e9)
        with node_on_wire(self.settings, wiring, self.network, self.clock(), self.load) as (self.node, self.port):
            self.start()
            self.connect()
            at_rest = self.left()
            while self.now_ns < end_ns and not self.problems:
                faulthandler.dump_traceback_later(STUCK_S, exit=True)
                self.step()
                if self.number % 200 == 0:
                    memory.append(resident_mib())
            faulthandler.cancel_dump_traceback_later()
            self.compare(at_rest)
            counts = self.node.counts["front"]
        quarter = max(len(memory) // 4, 1)
        first, last = float(np.mean(memory[:quarter])), float(np.mean(memory[-quarter:]))
        self.check(self.open == 0, f"{self.open} engines are open after the node has shut down")
        self.check(last <= 1.05 * first, "memory grew")
        dropped = {reason: number for reason, number in counts.dropped.items() if number}
        print(
            f"{(self.now_ns - START) / 3.6e12:.2f} h of node time in {time.monotonic() - begun:.0f} s: {self.sent} "
            f"images sent, {counts.received} received = {counts.published} published + "
            f"{sum(counts.dropped.values())} dropped {dropped}\nfaults: {dict(self.faults)}\n"
            f"memory: {first:.1f} MiB in the first quarter, {last:.1f} MiB in the last"
        )
        for problem in self.problems:
            print(problem)
        return not self.problems

    def step(self) -> None:
        """One image, and perhaps a fault."""
        fault = self.random.choice(FAULTS) if self.random.random() < 0.09 else ""
        self.faults.update([fault] if fault else [])
        before = self.now_ns
        if fault in {"killed", "resized"}:
            # A node that was activated a moment ago has not seen its camera yet.
            self.send(self.image())
        match fault:
            case "damaged" | "encoding" | "resized":
                self.spoil(fault)
            case "killed":
                self.kill()
            case "hangs" | "fails" | "slow":
                self.plant(fault)
            case "forged" | "swapped":
                self.swap(fault)
            case _:
                self.send(self.image())
        if self.number % 5 == 0:
            self.node.report()
        self.now_ns = max(self.now_ns, before + round(PERIOD_MS * MS))

    def image(self, height: int = 48, encoding: str = "rgb8", rows: int = 0) -> bytes:
        """An image of now."""
        return image_bytes(self.now_ns, height, 96, "front", encoding, rows)

    def spoil(self, fault: str) -> None:
        """Send an image that is not as the others."""
        sent, said = {
            "damaged": (self.image(rows=47), "rejected: image: "),
            "encoding": (self.image(encoding="bayer_rggb8"), "rejected: image: expected one of rgb8"),
            "resized": (self.image(height=24), "resized: "),
        }[fault]
        self.send(sent)
        self.expect("camera front", said)

    def kill(self) -> None:
        """End the camera without a word, and bring up another one."""
        self.writer = self.camera = None
        gc.collect()
        self.now_ns += 1500 * MS
        self.expect("camera front", "waiting: no image for")
        self.connect()

    def plant(self, fault: str) -> None:
        """Let the engine do it once."""
        misses, known = self.node.snapshot().watch.total_misses, self.subscriptions()
        self.trouble = fault
        self.send(self.image())
        if fault == "slow":
            self.check(self.node.snapshot().watch.total_misses == misses + 1, "a slow engine was not a miss")
            return
        self.expect("engine", "hangs: no answer" if fault == "hangs" else "inference failed: ", "last_swap")
        # A bundle that was swapped in a moment ago is rolled back instead.
        if self.node.state == State.INACTIVE:
            self.recover(known)

    def send(self, data: bytes) -> None:
        """Send an image, wait until it is there, and serve it."""
        received = self.node.counts["front"].received
        self.writer.write(data)
        self.sent += 1
        self.number += 1
        self.await_(lambda: self.node.counts["front"].received > received, "an image that was sent")
        self.balance()
        self.node.step()
        self.balance()

    def swap(self, name: str) -> None:
        """To a bundle with a bad signature, which is refused, or to a good one."""
        try:
            self.node.swap(Path(name))
        except EngineError:
            self.check(name == "forged", "a good bundle was refused")
            self.expect("engine", "expected a signature", "last_swap")
        self.send(self.image())

    def start(self) -> None:
        """Bring the node to where it serves."""
        for transition in ("configure", "activate"):
            step = self.node.transition(transition)  # type: ignore[arg-type]
            self.check(step.outcome == "success", f"{transition}: {step.reason}")

    def subscriptions(self) -> set[int]:
        """Those that the camera has met."""
        return set(self.writer.dds.get_matched_subscriptions())

    def recover(self, known: set[int]) -> None:
        """What a manager does after an error; the camera has to meet a subscription that is not `known`."""
        self.node.transition("cleanup")
        self.start()
        self.await_(lambda: bool(self.subscriptions() - known), "the new subscription")

    def connect(self) -> None:
        """A camera comes up, and meets the node."""
        self.camera = Participant("camera", self.network)
        self.writer = self.camera.writer(topic_name(TOPIC), "sensor_msgs/msg/Image", RELIABLE)
        self.await_(lambda: bool(self.subscriptions()), "the node")
        self.await_(lambda: any(reader.get_matched_publications() for reader in self.port._readers), "the camera")

    # --- what has to be so

    def balance(self) -> None:
        """The books, against what is pending."""
        pending = sum(counts.pending for counts in self.node.counts.values())
        self.check(pending == self.node.pending, f"{pending} pending by the books, {self.node.pending} by the node")

    def expect(self, name: str, text: str, value: str = "") -> None:
        """A status has to say it, in its message or, where something graver is said there, in one of its values."""
        (status,) = (one for one in diagnose(self.node.snapshot()) if one.name == name)
        said = f"{status.message} {status.values.get(value, '')}"
        self.check(text in said, f"{name}: expected {text!r}, got {said!r}")
        self.node.report()

    def left(self) -> tuple[int, int]:
        """Threads and file descriptors."""
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def compare(self, at_rest: tuple[int, int]) -> None:
        """What is there at the end, against the beginning."""
        gc.collect()
        now = self.left()
        self.check(now == at_rest, f"threads and descriptors: {at_rest} at the beginning, {now} at the end")
        counts = self.node.counts["front"]
        self.check(counts.received == self.sent, f"{self.sent} images were sent, {counts.received} were received")

    def check(self, kept: bool, problem: str) -> None:
        """Note what is not as it must be."""
        if not kept:
            self.problems.append(f"after {self.number} images, {dict(self.faults)}: {problem}")

    def await_(self, condition: Callable[[], bool], what: str) -> None:
        """Wait in real time for what passes over the wire."""
        end = time.monotonic() + STUCK_S / 2
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"waited {STUCK_S / 2:.0f} s for {what}; {dict(self.faults)}")
            time.sleep(0.0002)


def main() -> int:
    """Run it, and print what became of every image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kept = Soak(given.seed).live(given.hours)
    print(f"load of this machine now: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\nkept: {kept}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
