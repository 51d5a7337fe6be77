"""The only tests in real time; they wait for what happens, not for so long."""

import threading
import time

from ros_nodes.core.clock import REAL
from ros_nodes.core.lifecycle import State
from ros_nodes.core.threads import Threads

PATIENCE_S = 20


def until(happens):
    end = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


def real(bench, **settings):
    b = bench(age_from="arrival", deadline_ms=5000, **settings)
    b.node._clock = REAL
    return b.start()


def test_frames_from_several_threads_are_served_and_none_is_lost(bench):
    cameras = ("front", "left", "right")
    b = real(bench, cameras=cameras, batch_window_ms=1, report_every_ms=1, hang_ms=60_000)

    def send(camera):
        for _ in range(200):
            b.send(camera, height=4, width=4)

    with Threads(b.node):
        senders = [threading.Thread(target=send, args=(camera,)) for camera in cameras]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        until(lambda: b.node.pending == 0)
    counts = b.node.counts
    assert all(c.received == 200 and c.published >= 1 and c.pending == 0 for c in counts.values())
    assert sum(c.published for c in counts.values()) == len(b.port.published)
    assert len(b.port.reports) >= 1


def test_samples_of_a_drift_are_written_by_a_thread_of_their_own(bench, tmp_path):
    b = real(bench, drift_samples=str(tmp_path))
    written = threading.Event()
    b.node.save_samples = written.set
    before = threading.active_count()
    with Threads(b.node):
        assert threading.active_count() == before + 3
        assert written.wait(PATIENCE_S)


def test_the_watchdog_gives_up_a_worker_that_hangs_and_a_new_one_serves(bench, engine):
    b = real(bench, hang_ms=500)
    release, stuck = threading.Event(), b.engines["main"]

    def hang(inputs):
        release.wait(PATIENCE_S)
        return engine().run(inputs)

    stuck.run = hang
    with Threads(b.node, watch_every_s=0.001):
        b.send()
        until(lambda: b.node.state == State.INACTIVE)
        b.node.transition("cleanup")
        assert stuck.is_open
        b.engines["main"] = engine(revision=2)
        b.start()
        b.send()
        until(lambda: b.port.published)
        assert b.port.published[0].engine == "tiny revision 2, ort"
        release.set()
        until(lambda: not stuck.is_open)
    assert b.dropped() == {"hung": 1}
    assert len(b.port.published) == 1


def test_leaving_ends_the_threads(bench):
    before = threading.active_count()
    with Threads(bench().node):
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
