"""A node on the wire and a camera in another process: what the adapter adds, and a consumer that is too slow.

    python benchmarks/ros_wire.py [overhead|slow] [--seconds S] [--engine-ms MS]

- overhead: from the callback's entry (the message's bytes are there) to the published result, less decoding,
  preprocessing, engine and postprocessing: reading the message, the way to the worker, encoding and writing the
  result; at 30 Hz, an engine that takes no time, boxes and masks, 640x480 and 1920x1080.
- slow: 1920x1080 at 30 Hz, best effort, keep last 1, with an engine slower than that. Where every image went: the
  camera numbers them, so what the wire lost is told from what the node dropped. Age when their turn comes, and end to
  end: from the stamp to the result in the camera's process. Memory after a warm-up and at the end.

Ends with 1 where overhead is above 1 ms (640x480) or 4 ms (1920x1080) at the 99th percentile, the books do not balance,
the median end to end is two frame periods or more, or memory grew by more than 5 %.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import threading
import time
import uuid
from typing import Any

import numpy as np
from ros_planted import Run, boxes, image_bytes, masks, planted, resident_mib, sleeping

from ros_nodes.bag.library import typestore
from ros_nodes.core.clock import REAL
from ros_nodes.core.memory import keep_freed_memory
from ros_nodes.core.node import Node
from ros_nodes.core.result import Result
from ros_nodes.core.settings import Settings
from ros_nodes.core.threads import Threads
from ros_nodes.messages.outgoing import DETECTIONS
from ros_nodes.qos import CAMERA, RESULT
from ros_nodes.wire.ear import Ear
from ros_nodes.wire.names import topic_name
from ros_nodes.wire.participant import Participant
from ros_nodes.wire.port import WirePort
from ros_nodes.wire.settings import Network
from ros_nodes.wiring import Wiring

SIZES = {"640x480": (480, 640, 1.0), "1920x1080": (1080, 1920, 4.0)}
RATE_HZ = 30.0
WARMUP_S = 10.0
IMAGES = "/front/image_raw"


def main() -> int:
    """Run what was asked for, in this process or as its camera."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("overhead", "slow", "all", "camera"), default="all")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--engine-ms", type=float, default=40.0)
    parser.add_argument("--camera", help=argparse.SUPPRESS)
    given = parser.parse_args()
    keep_freed_memory()  # as `avcompress serve` does; and as drivers do, whose buffers are made once
    if given.what == "camera":
        print(json.dumps(camera(json.loads(given.camera))))
        return 0
    kept = True
    if given.what in {"overhead", "all"}:
        found = [overhead(size, kind) for size in SIZES for kind in ("detection", "segmentation")]
        kept &= all(found)
    if given.what in {"slow", "all"}:
        kept &= slow(given.seconds, given.engine_ms / 1e3)
    print(f"\nload of this machine now: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\nkept: {kept}")
    return 0 if kept else 1


def camera(told: dict[str, Any]) -> dict[str, Any]:
    """The other process: sends numbered images at a steady rate, hears the results, and says what it saw."""
    participant = Participant("camera", Network.model_validate(told["network"]))
    writer = participant.writer(topic_name(IMAGES), "sensor_msgs/msg/Image", CAMERA)
    latencies_ms: list[float] = []

    def hear(data: bytes) -> None:
        stamp = typestore().deserialize_cdr(data, DETECTIONS).header.stamp  # type: ignore[attr-defined]
        latencies_ms.append((time.time_ns() - stamp.sec * 10**9 - stamp.nanosec) / 1e6)

    results = participant.reader(
        topic_name("/vision/front/detections"), DETECTIONS, RESULT.model_copy(update={"depth": 10})
    )
    ear = Ear(participant, {results: hear}, lambda *_: None, "results")
    while not writer.dds.get_matched_subscriptions():
        time.sleep(0.01)
    sent = bytearray(image_bytes(0, told["height"], told["width"], f"{0:08}"))
    count, begun = round(told["seconds"] * RATE_HZ), time.monotonic()
    for number in range(count):
        time.sleep(max(begun + number / RATE_HZ - time.monotonic(), 0))
        # As a driver does: the stamp and the number go before pixels that are there already.
        now = time.time_ns()
        sent[4:24] = struct.pack("<iII8s", now // 10**9, now % 10**9, 9, f"{number:08}".encode())
        writer.write(bytes(sent))
    took = time.monotonic() - begun
    time.sleep(2)
    ear.close()
    return {"sent": count, "took_s": took, "latencies_ms": latencies_ms}


class TimedPort(WirePort):
    """Notes when each frame's callback was entered, which frames came, and when each result was out."""

    def __init__(self, *given: Any) -> None:
        self.sent_ns: dict[str, list[int]] = {}
        super().__init__(*given)
        self.entered_ns: dict[int, int] = {}
        self.numbers: list[int] = []
        self.added_ms: list[float] = []
        self.whole_ms: list[float] = []
        self.ages_ms: list[float] = []

    def _hear(self, deliver: Any, camera: str, message: str, data: bytes) -> None:
        entered = time.monotonic_ns()

        def take(name: str, frame: Any) -> None:
            self.entered_ns[frame.header.stamp_ns] = entered
            self.numbers.append(int(frame.header.frame_id))
            deliver(name, frame)

        super()._hear(take, camera, message, data)

    def _send(self, topic: str, message: Any, qos: Any) -> None:
        super()._send(topic, message, qos)
        self.sent_ns.setdefault(topic, []).append(time.monotonic_ns())

    def publish(self, result: Result) -> None:
        """Publish, and note what it took beside the stages that are the engine's."""
        super().publish(result)
        moments = result.moments
        others_ns = self.entered_ns[result.header.stamp_ns] + moments.finished_ns - moments.taken_ns
        self.added_ms.append((self.sent_ns[self._topics.results(result.camera)][-1] - others_ns) / 1e6)
        taken_at_ns = time.time_ns() - (time.monotonic_ns() - moments.taken_ns)
        self.ages_ms.append((taken_at_ns - result.header.stamp_ns) / 1e6)

    def follow_up(self, result: Result, at_ns: int) -> None:
        """Say how long it took, and note what that took, too."""
        super().follow_up(result, at_ns)
        moments = result.moments
        others_ns = self.entered_ns[result.header.stamp_ns] + moments.finished_ns - moments.taken_ns
        self.whole_ms.append((time.monotonic_ns() - others_ns) / 1e6)


def drive(run: Run, kind: str, size: str, seconds: float) -> tuple[TimedPort, Any, dict[str, Any], list[float]]:
    """A node and its camera for so long: the port, the node's counts, what the camera saw, memory every second."""
    network = Network(interface="lo", domain=os.getpid() % 200, tag=uuid.uuid4().hex)
    settings = Settings(bundle="planted", allow_unsigned=True, cameras=("front",), report_every_ms=1000)
    wiring = Wiring(node="vision", topics={"front": IMAGES})
    port = TimedPort(Participant("vision", network), wiring)
    node = Node(settings, port, REAL, lambda *_: planted(run, kind))
    for transition in ("configure", "activate"):
        if node.transition(transition).outcome != "success":  # type: ignore[arg-type]
            raise SystemExit(node.snapshot().engines.fault)
    height, width, _ = SIZES[size]
    told = {"network": network.model_dump(), "seconds": seconds, "height": height, "width": width}
    memory: list[float] = []
    with Threads(node):
        other = subprocess.Popen(
            [sys.executable, __file__, "camera", "--camera", json.dumps(told)], stdout=subprocess.PIPE
        )
        over = threading.Event()
        watch = threading.Thread(target=lambda: _remember(memory, over))
        watch.start()
        out, _ = other.communicate()
        over.set()
        watch.join()
    node.report()
    counts = node.counts["front"]
    lost = port.events.total("message_lost")
    node.transition("shutdown")
    return port, (counts, lost), json.loads(out), memory


def _remember(memory: list[float], over: threading.Event) -> None:
    while not over.wait(1.0):
        memory.append(resident_mib())


def overhead(size: str, kind: str) -> bool:
    """Print what the adapter adds; False above the limit."""
    run = boxes if kind == "detection" else masks
    port, _, seen, _ = drive(run, kind, size, 20.0)
    added = np.array(port.added_ms[30:])
    limit = SIZES[size][2]
    p50, p99 = np.percentile(added, [50, 99])
    with_debug = np.percentile(port.whole_ms[30:], 99)
    print(
        f"{size}, {kind}: p50 {p50:.3f} ms, p99 {p99:.3f} ms, max {added.max():.3f} ms of {len(added)} images; "
        f"limit {limit:g} ms at p99; with both debug topics {with_debug:.3f} ms; camera at "
        f"{seen['sent'] / seen['took_s']:.1f} Hz",
        flush=True,
    )
    return bool(p99 <= limit)


def slow(seconds: float, engine_s: float) -> bool:
    """Print where the images of a camera went that is faster than the engine; False where a limit is not kept."""
    port, (counts, told), seen, memory = drive(sleeping(boxes, engine_s), "detection", "1920x1080", seconds)
    sent, numbers = seen["sent"], np.array(port.numbers)
    never = sent - len(set(port.numbers))
    dropped = {reason: number for reason, number in counts.dropped.items() if number}
    balanced = counts.received == counts.published + sum(counts.dropped.values()) == len(numbers)
    balanced &= sent == counts.received + never and bool((np.diff(numbers) > 0).all())
    latencies = np.array(seen["latencies_ms"])
    p50, p99 = np.percentile(latencies, [50, 99])
    print(
        f"slow consumer, engine {1e3 * engine_s:g} ms, camera {1e3 / RATE_HZ:.1f} ms, {seconds:g} s: {sent} sent "
        f"({sent / seen['took_s']:.1f} Hz), {never} lost by the wire (Cyclone told of {told}), {counts.received} "
        f"received = {counts.published} published + {sum(counts.dropped.values())} dropped {dropped}, {len(latencies)} "
        "results heard"
    )
    print(
        f"age when its turn came: p50 {np.median(port.ages_ms):.1f} ms, p99 {np.percentile(port.ages_ms, 99):.1f} ms; "
        f"end to end: p50 {p50:.1f} ms, p99 {p99:.1f} ms; two periods are {2e3 / RATE_HZ:.1f} ms"
    )
    warm = memory[min(round(WARMUP_S), len(memory) // 2) :]
    third = max(len(warm) // 3, 1)
    # Medians: at any moment an image or two of 6 MiB are on their way.
    start, end = float(np.median(warm[:third])), float(np.median(warm[-third:]))
    print("memory every 5 s, MiB: " + ", ".join(f"{mib:.0f}" for mib in memory[::5]))
    print(
        f"memory: median {start:.1f} MiB in the first third when warm, {end:.1f} in the last, at most {max(warm):.1f}"
    )
    return bool(balanced and p50 < 2e3 / RATE_HZ and end <= 1.05 * start)


if __name__ == "__main__":
    sys.exit(main())
