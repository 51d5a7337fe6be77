"""The only tests in real time; they wait for what happens, not for so long."""

import threading
import time

import pytest

from ros_nodes.core.clock import REAL
from ros_nodes.core.diagnostics import Level
from ros_nodes.core.lifecycle import State
from ros_nodes.core.threads import Threads

PATIENCE_S = 20
ENDS_A_THREAD = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def until(happens):
    end = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


def real(bench, **settings):
    b = bench(age_from="arrival", **{"deadline_ms": 5000, "hang_ms": 60_000, **settings})
    b.node._clock = REAL
    return b.start()


def test_frames_from_several_threads_are_served_and_none_is_lost(bench):
    cameras = ("front", "left", "right")
    b = real(bench, cameras=cameras, batch_window_ms=1, report_every_ms=1)

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


def test_what_the_last_image_is_kept_for_is_written_before_the_threads_end(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("ros_nodes.core.threads._IDLE_S", 0.01)
    b = real(bench, drift_samples=str(tmp_path), hang_ms=60_000)
    entered, leave, order = threading.Event(), threading.Event(), []

    def look(*_):
        entered.set()
        leave.wait(PATIENCE_S)
        order.append("looked")

    b.node._drift.look = look
    b.node.save_samples = lambda: order.append("saved")
    with Threads(b.node):
        b.send()
        assert entered.wait(PATIENCE_S)
        threading.Timer(0.1, leave.set).start()
    assert order[-1] == "saved"
    assert "looked" in order


def test_the_watchdog_gives_up_a_worker_that_hangs_and_a_new_one_serves(bench, engine):
    b = real(bench, hang_ms=500, deadline_ms=400)
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


def test_an_engine_that_cannot_be_closed_ends_no_thread_and_the_next_one_serves(bench, engine):
    b = real(bench, probation=1)
    b.engines["new"] = engine(revision=2)

    def refuse():
        raise RuntimeError("cudaFree failed")

    b.node._engines.primary.session.close = refuse
    with Threads(b.node):
        b.node.swap("new")
        for count in (1, 2, 3):
            b.send()
            until(lambda count=count: len(b.port.published) == count)
    status = b.status("engine")
    assert (status.level, status.message) == (Level.WARN, "tiny revision 1, ort: not closed: cudaFree failed")
    assert status.values["last_close_error"] == status.message


@ENDS_A_THREAD
@pytest.mark.parametrize(
    ("method", "error", "reason"),
    [
        ("step", RuntimeError("un\nforeseen"), "worker: un foreseen"),
        ("step", SystemExit(), "worker: its thread has ended"),
        ("watch", RuntimeError("un\nforeseen"), "watchdog: un foreseen"),
    ],
)
def test_what_a_thread_does_not_survive_stops_the_node_and_says_why(bench, monkeypatch, method, error, reason):
    b = real(bench, max_age_ms=60_000)

    def crash():
        monkeypatch.undo()
        raise error

    monkeypatch.setattr(b.node, method, crash)
    with Threads(b.node):
        until(lambda: b.node.state == State.INACTIVE)
        assert (b.status("engine").level, b.status("engine").message) == (Level.ERROR, reason)
        b.node.transition("activate")
        b.send()
        until(lambda: b.port.published)


@ENDS_A_THREAD
def test_a_worker_that_ends_in_the_midst_of_an_inference_leaves_the_books_balanced(bench):
    b = real(bench)

    def end(_):
        raise SystemExit

    b.engines["main"].run = end
    with Threads(b.node):
        b.send()
        until(lambda: b.node.state == State.INACTIVE)
    assert b.dropped() == {"failed": 1}
    assert b.is_exact()


def test_a_bundle_that_hangs_on_trial_is_rolled_back_and_its_worker_replaced(bench, engine):
    b = real(bench, hang_ms=500, deadline_ms=400, max_age_ms=60_000)
    release = threading.Event()
    new = b.engines["new"] = engine(revision=2)
    new.run = lambda inputs: release.wait(PATIENCE_S) and engine().run(inputs)
    with Threads(b.node, watch_every_s=0.001):
        b.node.swap("new")
        b.send()
        until(lambda: b.dropped() == {"hung": 1})
        b.send()
        until(lambda: b.port.published)
        assert (b.port.published[0].engine, b.node.state) == ("tiny revision 1, ort", State.ACTIVE)
        release.set()
        until(lambda: not new.is_open)
