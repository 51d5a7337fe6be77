"""A node of tests' engines on the loopback, in real time, with foreign nodes around it."""

import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

from calibration.frame import Header, RawImage


def image(value=128, height=48, width=96, encoding="rgb8", frame_id="front_optical"):
    now = time.time_ns()
    header = Header(now // 10**9, now % 10**9, frame_id)
    return RawImage(header, height, width, encoding, width * 3, np.full(height * width * 3, value, np.uint8))


class OnWire:
    """A node called vision with its threads, a camera and a listener that have met it."""

    def __init__(self, rig, bench, stack, topic="/front/image_raw", wiring=None, activate=True, **settings):
        from ros_nodes.core.threads import Threads
        from ros_nodes.wire.serving import node_on_wire
        from ros_nodes.wiring import Wiring

        self.rig, self.network, self.topic = rig, rig.lonely(), topic
        self.bench = bench(
            **{"deadline_ms": 5000, "hang_ms": 60_000, "max_age_ms": 60_000, "report_every_ms": 20, **settings}
        )
        wiring = wiring or Wiring(node="vision", topics={"front": topic}, camera_qos=rig.ROOMY)
        made = node_on_wire(self.bench.settings, wiring, self.network, load=self.bench.load)
        self.node, self.port = stack.enter_context(made)
        stack.enter_context(Threads(self.node))
        self.listener = rig.Listener(self.network, rig.node_topics(("front",)))
        stack.callback(self.listener.close)
        if activate:
            self.activate()
            self.listener.await_results(("front",))

    def activate(self):
        for name in ("configure", "activate"):
            step = self.node.transition(name)
            assert step.outcome == "success", step.reason

    def camera(self, qos=None):
        return self.rig.Camera(self.topic, self.network, qos or self.rig.ROOMY).await_listener()

    def status(self, name, matches):
        """The first status of a name, of those heard, that is as it should be."""

        def found():
            for message in reversed(self.listener.on("/diagnostics")):
                for status in message.status:
                    if status.name == f"vision: {name}" and matches(status):
                        return status
            return None

        return self.rig.until(found, f"the diagnostic of {name}")

    def results(self, count):
        topic = "/vision/front/detections"
        return self.rig.until(lambda: len(self.listener.on(topic)) >= count and self.listener.on(topic), "results")


@pytest.fixture
def on_wire(wire_rig, bench):
    """Make a node on the wire."""
    with ExitStack() as stack:
        yield lambda **settings: OnWire(wire_rig, bench, stack, **settings)
    left = {thread.name.removeprefix("avcompress ") for thread in threading.enumerate()}
    assert not left & {"cameras", "services", "transitions", "worker", "watchdog"}


@pytest.fixture(scope="session")
def picture():
    """An image of now."""
    return image
