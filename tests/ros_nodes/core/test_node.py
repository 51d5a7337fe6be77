import math
import threading

import numpy as np
import pytest
from pydantic import ValidationError

from avcompress.spec import EngineError, RecipeError
from calibration.frame import Header, RawImage
from ros_nodes.core import node as node_module
from ros_nodes.core.diagnostics import Level
from ros_nodes.core.lifecycle import LifecycleError, State


def fails(inputs):
    raise EngineError("ort: expected an answer, got a broken one; mend it")


# --- frames to results


def test_a_frame_becomes_boxes_in_its_own_pixels_under_its_own_header(bench):
    b = bench().start()
    b.send(value=80)
    assert b.node.step()
    (result,) = b.port.published
    # The network's input is 64x32, the image 96x48: a box 10x8 in the middle of the first is 15x12 there.
    np.testing.assert_allclose(result.prediction.xyxy, [[48 - 7.5, 24 - 6, 48 + 7.5, 24 + 6]], atol=1e-4)
    assert result.prediction.labels.tolist() == [0]
    assert (result.camera, result.header.frame_id, result.header.stamp_ns) == ("front", "front_optical", b.time.now)
    assert (result.size, result.engine) == ((48, 96), "tiny revision 1, ort")
    assert not b.node.step()


def test_nothing_seen_is_published_too(bench):
    b = bench().start()
    b.engines["main"].run = lambda _: {"boxes": np.zeros((1, 6, 2), np.float32)}
    b.serve()
    assert len(b.port.published[0].prediction.labels) == 0


def test_stages_are_disjoint_and_add_up(bench):
    b = bench().start()
    b.slow(7)
    b.send()
    b.time.pass_ms(3)
    b.node.step()
    stages = b.port.published[0].moments.stages_ms
    assert stages == {"waiting": 3, "decode": 0, "preprocess": 0, "inference": 7, "postprocess": 0}


def test_only_the_newest_frame_of_a_camera_is_served(bench):
    b = bench().start()
    for value in (10, 20, 30):
        b.send(value=value)
        b.time.pass_ms(1)
    b.node.step()
    assert not b.node.step()
    assert len(b.port.published) == 1
    assert b.dropped() == {"superseded": 2}


def test_a_frame_that_waited_too_long_is_dropped_and_counted_by_its_age(bench):
    b = bench(max_age_ms=50).start()
    b.send(stamp_ns=b.time.now - 30_000_000)
    b.time.pass_ms(21)
    assert not b.node.step()
    assert b.dropped() == {"stale": 1}
    assert b.node.counts["front"].stale_ages["1-2"] == 1
    status = b.status("camera front")
    assert (status.level, status.message) == (
        Level.WARN,
        "stale: expected at most 50 ms, got 51 ms when its turn came",
    )


def test_the_age_may_count_from_arrival_where_clocks_disagree(bench):
    b = bench(max_age_ms=50, age_from="arrival").start()
    b.send(stamp_ns=5)
    assert b.node.step()


def test_a_stamp_from_the_future_is_no_age(bench):
    b = bench(max_age_ms=50).start()
    b.send(stamp_ns=b.time.now + 10**12)
    b.time.pass_ms(51)
    assert not b.node.step()
    assert b.dropped() == {"stale": 1}


def test_cameras_go_through_the_engine_together_and_each_result_is_its_own(bench):
    b = bench(cameras=("front", "left", "right"), batch_window_ms=5).start()
    b.send("left", value=80)
    b.send("front", value=160)
    assert not b.node.step()
    b.time.pass_ms(5)
    b.node.step()
    assert b.engines["main"].batches == [2]
    widths = {result.camera: float(np.ptp(result.prediction.xyxy[0, ::2])) for result in b.port.published}
    assert widths == {"front": 30, "left": 15}


def test_an_engine_that_takes_one_image_gets_the_cameras_in_turns(bench):
    b = bench(cameras=("front", "left"))
    b.engines["main"].batch = 1
    b.start()
    for _ in range(2):
        b.send("front")
        b.send("left")
        b.node.step()
    b.node.step()
    assert [result.camera for result in b.port.published] == ["front", "left", "front"]
    assert b.engines["main"].batches == [1, 1, 1]


def test_a_camera_that_nobody_named_is_refused(bench):
    with pytest.raises(RecipeError, match="expected one of front, got 'rear'; name it in `cameras`"):
        bench().start().send("rear")


# --- what goes wrong with frames


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("bayer", "rejected: image: expected one of rgb8"), ("jpeg", "rejected: image: expected a readable image")],
)
def test_a_frame_that_cannot_be_read_is_rejected_and_the_next_one_served(bench, encoding, message):
    b = bench().start()
    b.send_broken(encoding=encoding)
    b.node.step()
    status = b.status("camera front")
    assert status.level == Level.ERROR
    assert status.message.startswith(message)
    assert b.dropped() == {"rejected": 1}
    b.serve()
    assert b.status("camera front").message == "OK"
    assert b.node.counts["front"].published == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "rejected: image: expected one that can be decoded, got MemoryError; look at the camera"),
        (ValueError("cannot reshape"), "rejected: cannot reshape"),
    ],
)
def test_whatever_decoding_raises_rejects_that_image_and_stops_nothing(bench, monkeypatch, error, message):
    b = bench(cameras=("front", "left")).start()
    decode = node_module.to_rgb

    def to_rgb(frame):
        if frame.header.frame_id == "front_optical":
            raise error
        return decode(frame)

    monkeypatch.setattr(node_module, "to_rgb", to_rgb)
    b.send("front")
    b.send("left")
    b.node.step()
    assert b.node.state == State.ACTIVE
    assert [result.camera for result in b.port.published] == ["left"]
    assert b.dropped("front") == {"rejected": 1}
    assert b.status("camera front").message == message


def test_a_raw_image_of_a_corrupt_step_is_served_by_the_bytes_that_it_has(bench):
    b = bench().start()
    header = Header(b.time.now // 10**9, b.time.now % 10**9, "front")
    b.node.receive("front", RawImage(header, 1, 4, "rgb8", 2**32 - 1, np.zeros(12, np.uint8)))
    assert b.node.step()
    assert (b.node.state, b.node.counts["front"].published) == (State.ACTIVE, 1)


def test_of_a_batch_with_a_corrupt_image_the_others_are_served(bench):
    b = bench(cameras=("front", "left")).start()
    b.send_broken("front", "jpeg")
    b.send("left")
    b.node.step()
    assert [result.camera for result in b.port.published] == ["left"]
    assert b.engines["main"].batches == [1]


def test_a_camera_that_changes_its_size_is_served_on_and_told(bench):
    b = bench().start()
    b.serve()
    b.send(height=24, width=48)
    b.node.step()
    np.testing.assert_allclose(b.port.published[1].prediction.xyxy.mean(axis=1), [18])
    status = b.status("camera front")
    assert (status.level, status.values["size"], status.values["resizes"]) == (Level.WARN, "48x24", "1")
    assert status.message.startswith("resized")
    b.time.pass_ms(900)
    for _ in range(6):
        b.send(height=24, width=48)
        b.node.step()
        b.time.pass_ms(900)
    assert b.status("camera front").level == Level.OK


def test_a_camera_that_falls_silent_is_waited_for(bench):
    b = bench(camera_timeout_ms=100).start()
    assert b.status("camera front").message == "waiting for the first image"
    b.serve()
    assert b.status("camera front").level == Level.OK
    b.time.pass_ms(101)
    status = b.status("camera front")
    assert (status.level, status.values["state"]) == (Level.ERROR, "waiting")
    assert status.message == "waiting: no image for 102.000 ms"


def test_a_transport_that_refuses_a_result_loses_that_frame_only(bench):
    b = bench().start()
    b.port.broken = OSError("no buffer space")
    b.serve()
    b.port.broken = None
    b.serve()
    assert b.dropped() == {"unpublished": 1}
    assert len(b.port.published) == 1
    assert b.status("engine").values["last_transport_error"] == "no buffer space"


def test_what_follows_a_result_comes_after_all_of_its_batch_takes_no_time_of_it_and_loses_none(bench):
    b = bench(cameras=("front", "left"), batch_window_ms=1).start()
    order = []
    b.port.on_publish = lambda result: order.append(result.camera) or b.time.pass_ms(1)

    def follow_up(result, at_ns):
        order.append((result.camera, at_ns - result.moments.arrived_ns))
        b.time.pass_ms(50)
        b.node.watch()
        raise OSError("debug: no buffer space")

    b.port.on_follow_up = follow_up
    b.send("front")
    b.send("left")
    b.node.step()
    assert order == ["front", "left", ("front", 1_000_000), ("left", 2_000_000)]
    assert [counts.published for counts in b.node.counts.values()] == [1, 1]
    assert b.node.snapshot().watch.total_misses == 0
    assert b.status("engine").values["last_transport_error"] == "debug: no buffer space"


def test_nothing_follows_a_result_that_was_not_sent(bench):
    b = bench().start()
    followed = []
    b.port.on_follow_up = lambda *given: followed.append(given)
    b.port.broken = OSError("no buffer space")
    b.serve()
    b.port.broken = None
    b.serve()
    assert len(followed) == 1


def refuse_news(port, monkeypatch):
    """Let the next announcement fail, and only that."""
    announce = port.announce

    def refuse(_):
        monkeypatch.setattr(port, "announce", announce)
        raise OSError("no buffer space")

    monkeypatch.setattr(port, "announce", refuse)


def test_a_node_that_cannot_announce_its_engine_does_not_become_active(bench, monkeypatch):
    b = bench()
    refuse_news(b.port, monkeypatch)
    assert b.node.transition("configure").outcome == "success"
    step = b.node.transition("activate")
    assert (step.state, step.outcome, step.reason) == (State.UNCONFIGURED, "error", "OSError: no buffer space")
    assert (b.port.subscribed, b.engines["main"].is_open) == (False, False)
    b.start()
    assert len(b.port.announced) == 1


def test_an_engine_swapped_in_that_cannot_be_announced_is_announced_again(bench, engine, monkeypatch):
    b = bench().start()
    b.engines["new"] = engine(revision=2)
    b.node.swap("new")
    refuse_news(b.port, monkeypatch)
    b.node.step()
    assert [a.revision for a in b.port.announced] == [1]
    assert b.status("engine").values["last_transport_error"] == "no buffer space"
    b.serve()
    assert [a.revision for a in b.port.announced] == [1, 2]
    b.serve()
    assert len(b.port.announced) == 2


# --- lifecycle


def test_configuring_loads_activating_only_subscribes_deactivating_keeps_and_cleaning_up_frees(bench):
    b = bench()
    main = b.engines["main"]
    b.node.transition("configure")
    assert (main.is_open, b.port.subscribed, b.port.announced) == (True, False, [])
    b.node.transition("activate")
    assert b.port.subscribed
    assert b.port.announced[0].classes == ("car", "person")
    b.node.transition("deactivate")
    assert (main.is_open, b.port.subscribed) == (True, False)
    b.node.transition("cleanup")
    assert not main.is_open
    assert [step.state.label for step in b.port.steps] == ["inactive", "active", "inactive", "unconfigured"]


def test_frames_of_a_node_that_is_not_active_are_counted_and_no_more(bench):
    b = bench()
    b.send()
    b.start()
    b.send()
    b.node.transition("deactivate")
    b.send()
    assert not b.node.step()
    assert b.dropped() == {"inactive": 3}
    assert b.node.counts["front"].received == 3


def test_a_bundle_that_is_refused_leaves_the_node_unconfigured_alive_and_saying_why(bench):
    b = bench()
    main = b.engines.pop("main")
    step = b.node.transition("configure")
    assert (step.state, step.outcome) == (State.UNCONFIGURED, "failure")
    assert "main: expected a bundle, got nothing" in step.reason
    status = b.status("engine")
    assert (status.level, status.message) == (Level.ERROR, step.reason)
    b.engines["main"] = main
    assert b.start().node.state == State.ACTIVE


def test_no_deadline_anywhere_is_refused_and_nothing_stays_open(bench, monkeypatch):
    b = bench()
    served = b.engines["main"].served(1)
    manifest = served.manifest.model_copy(
        update={"contract": served.manifest.contract.model_copy(update={"latency": ()})}
    )
    object.__setattr__(served, "manifest", manifest)
    monkeypatch.setattr(b.node, "_load", lambda *_: served)
    assert "set deadline_ms" in b.node.transition("configure").reason
    assert not b.engines["main"].is_open


def test_a_fallback_of_other_classes_is_refused_and_nothing_stays_open(bench, engine):
    b = bench(fallback=True)
    b.engines["small"] = engine("small", classes=("car", "bus"))
    assert "fallback: expected the classes car, person, got car, bus" in b.node.transition("configure").reason
    assert not any(e.is_open for e in b.engines.values())


def test_what_the_transport_raises_when_it_subscribes_is_an_error_that_frees_everything(bench, monkeypatch):
    b = bench()
    b.node.transition("configure")

    def crash(*_):
        raise ValueError("no such topic")

    monkeypatch.setattr(b.port, "subscribe", crash)
    step = b.node.transition("activate")
    assert (step.state, step.outcome) == (State.UNCONFIGURED, "error")
    assert step.reason == "ValueError: no such topic"
    assert not b.engines["main"].is_open


def test_a_transition_out_of_order_is_refused(bench):
    with pytest.raises(LifecycleError):
        bench().node.transition("activate")


def test_shutting_down_frees_everything_from_anywhere(bench):
    b = bench(fallback=True).start()
    b.send()
    assert b.node.transition("shutdown").state == State.FINALIZED
    assert not any(e.is_open for e in b.engines.values())
    assert b.dropped() == {"inactive": 1}


def test_a_result_that_comes_after_the_deactivation_is_not_published(bench):
    b = bench().start()
    b.engines["main"].run = lambda inputs: b.node.transition("deactivate") and one_box_of(b, inputs)
    b.serve()
    assert b.port.published == []
    assert b.dropped() == {"inactive": 1}


def one_box_of(b, inputs):
    return type(b.engines["main"])().run(inputs)


def test_an_engine_that_is_cleaned_up_while_it_runs_is_closed_when_it_is_done(bench):
    b = bench().start()
    main = b.engines["main"]
    seen = []

    def run(inputs):
        b.node.transition("deactivate")
        b.node.transition("cleanup")
        seen.append(main.is_open)
        return one_box_of(b, inputs)

    main.run = run
    b.serve()
    assert seen == [True]
    assert not main.is_open


@pytest.mark.parametrize("how", ["late", "fails"])
def test_an_inference_that_outlives_its_activation_counts_for_nothing_in_the_next(bench, how):
    b = bench().start()

    def run(inputs):
        b.node.transition("deactivate")
        b.node.transition("activate")
        b.time.pass_ms(50)
        b.node.watch()
        return one_box_of(b, inputs) if how == "late" else fails(inputs)

    b.engines["main"].run = run
    b.serve()
    assert b.node.state == State.ACTIVE
    assert b.node.snapshot().watch.total_misses == 0
    assert b.dropped() == {"inactive": 1}


def test_an_inference_that_hangs_after_the_deactivation_is_told_until_it_is_over(bench):
    b = bench().start()
    seen = []

    def run(inputs):
        b.node.transition("deactivate")
        seen.append(b.status("engine"))
        b.time.pass_ms(501)
        b.node.watch()
        seen.append(b.status("engine"))
        return one_box_of(b, inputs)

    b.engines["main"].run = run
    b.serve()
    assert [(int(one.level), one.message) for one in [*seen, b.status("engine")]] == [
        (0, "OK"),
        (2, "tiny revision 1, ort: hangs: no answer for 501 ms"),
        (0, "OK"),
    ]


def test_a_worker_that_wakes_while_the_node_is_being_activated_announces_nothing(bench, monkeypatch):
    b, seen = bench(), []
    b.node.transition("configure")
    forget = b.node._drift.forget

    def forget_and_wake():
        forget()
        b.node.step()
        seen.append(len(b.port.announced))

    monkeypatch.setattr(b.node._drift, "forget", forget_and_wake)
    assert b.node.transition("activate").outcome == "success"
    assert (seen, len(b.port.announced)) == ([0], 1)


class Stuck:
    """A worker in its own thread that swaps revision 2 in, and whose announcement of it lasts until it is let go."""

    def __init__(self, b, engine):
        self._announce, self._begun, self._release = b.port.announce, threading.Event(), threading.Event()
        self._worker = threading.Thread(target=b.node.step)
        b.port.announce = self._hold
        b.engines["2"] = engine(revision=2)
        b.node.swap("2")

    def begin(self):
        self._worker.start()
        assert self._begun.wait(20)

    def let_go(self):
        self._release.set()
        self._worker.join(20)

    def _hold(self, announcement):
        if announcement.revision == 2:
            self._begun.set()
            assert self._release.wait(20)
        self._announce(announcement)


def test_an_announcement_that_is_still_under_way_does_not_come_after_that_of_the_next_activation(bench, engine):
    b = bench().start()
    b.engines["3"] = engine(revision=3)
    stuck = Stuck(b, engine)
    stuck.begin()
    b.node.transition("deactivate")
    b.node.swap("3")
    manager = threading.Thread(target=b.node.transition, args=("activate",))
    manager.start()
    manager.join(0.2)  # without the order, it is through by then
    stuck.let_go()
    manager.join(20)
    assert [announcement.revision for announcement in b.port.announced] == [1, 2, 3]


def test_an_announcement_that_never_ends_holds_up_nobody(bench, engine):
    b = bench(warmup=1).start()
    stuck = Stuck(b, engine)
    b.send()
    stuck.begin()
    b.time.pass_ms(501)
    b.node.watch()
    b.serve(2)

    assert (b.node.state, b.dropped(), len(b.port.published)) == (State.ACTIVE, {"hung": 1}, 2)
    assert [one.revision for one in b.port.announced] == [1, 1]
    stuck.let_go()
    # It was heard after the engine that serves again, which is told anew.
    assert [one.revision for one in b.port.announced] == [1, 1, 2, 1]
    assert b.is_exact()


def test_an_announcement_that_never_ends_stops_a_node_without_frames_and_a_clean_up_gets_over_it(bench, engine):
    b = bench(warmup=1).start()
    stuck = Stuck(b, engine)
    stuck.begin()
    b.time.pass_ms(500)
    b.node.watch()
    assert b.node.state == State.ACTIVE
    b.time.pass_ms(1)
    b.node.watch()
    assert b.node.state == State.INACTIVE
    assert b.status("engine").message == "transport: hangs: an announcement has not ended for 501 ms"

    generation = b.node.generation
    b.node.transition("cleanup")
    b.start().serve(1)
    assert (b.node.generation, len(b.port.published)) == (generation + 1, 1)
    stuck.let_go()
    b.serve(1)
    assert b.is_exact()


def test_an_activation_does_not_wait_for_ever_for_an_announcement(bench, engine):
    b = bench(hang_ms=100).start()
    stuck = Stuck(b, engine)
    stuck.begin()
    b.node.transition("deactivate")
    step = b.node.transition("activate")
    stuck.let_go()

    assert step.outcome != "success"
    assert "expected the announcement that is under way to end, got none for 0.1 s" in step.reason


def test_what_was_seen_of_cameras_is_forgotten_when_the_node_is_activated_anew_but_not_what_was_counted(bench):
    b = bench().start()
    b.send_broken()
    b.node.transition("deactivate")
    b.node.transition("activate")
    status = b.status("camera front")
    assert (status.message, status.values["dropped_rejected"]) == ("waiting for the first image", "1")


def test_engines_that_cannot_be_closed_are_told_and_the_node_goes_on_from_the_beginning(bench):
    b = bench(fallback=True).start()
    b.node.transition("deactivate")
    closed = []

    def refuse():
        closed.append(1)
        raise EngineError("trt: expected to free its memory, got an error; start the node anew")

    for served in (b.node._engines.primary, b.node._engines._fallback):
        served.session.close = refuse
    step = b.node.transition("cleanup")
    assert (step.state, step.outcome, len(closed)) == (State.UNCONFIGURED, "success", 2)
    status = b.status("engine")
    assert (status.level, status.values["active_engine"]) == (Level.WARN, "")
    assert status.message == (
        "small revision 1, ort: not closed: trt: expected to free its memory, got an error; start the node anew"
    )
    b.start()
    b.serve()
    assert (len(b.port.published), b.status("engine").level) == (1, Level.OK)


def test_a_node_without_an_engine_is_not_activated(bench):
    b = bench()
    b.node.transition("configure")
    b.node._engines.retire_all()
    step = b.node.transition("activate")
    assert (step.state, step.outcome) == (State.INACTIVE, "failure")
    assert step.reason == "activate: expected an engine, got none; clean up, and configure again"
    assert not b.port.subscribed


# --- the contract on board


def test_a_window_in_which_every_image_grows_stale_is_refused(bench):
    with pytest.raises(ValidationError, match="batch_window_ms: expected less than max_age_ms, 200, got 300; lower"):
        bench(batch_window_ms=300, max_age_ms=200)


@pytest.mark.parametrize("settings", [{"hang_ms": 10}, {"hang_ms": 500, "deadline_ms": 600}])
def test_a_hang_that_would_come_before_the_deadline_is_refused_and_nothing_stays_open(bench, settings):
    b = bench(**settings)
    step = b.node.transition("configure")
    assert (step.state, step.outcome) == (State.UNCONFIGURED, "failure")
    assert step.reason.startswith("hang_ms: expected more than the deadline, ")
    assert not b.engines["main"].is_open


@pytest.mark.parametrize(("deadline_ms", "hang_ms"), [(10, 2000), (499, 2000), (3000, 12_000)])
def test_a_hang_is_four_deadlines_unless_the_settings_say_else(bench, deadline_ms, hang_ms):
    b = bench(hang_ms=None, deadline_ms=deadline_ms).start()
    assert b.node.snapshot().limits.hang_ns == hang_ms * 1_000_000


def test_the_deadline_is_the_contract_s_unless_the_settings_have_another(bench):
    assert bench().start().node.snapshot().limits.deadline_ns == 10_000_000
    assert bench(deadline_ms=5).start().node.snapshot().limits.deadline_ns == 5_000_000


def test_a_slow_engine_gives_way_to_the_fallback_and_comes_back(bench):
    b = bench(fallback=True, fall_back_after=3, return_after=4).start()
    b.slow(11)
    b.serve(3)
    status = b.status("engine")
    assert (status.level, status.values["active_engine"], status.values["fallback_count"]) == (
        Level.WARN,
        "small revision 1, ort",
        "1",
    )
    b.slow(1)
    b.serve(3)
    assert [r.engine.split()[0] for r in b.port.published] == ["tiny"] * 3 + ["small"] * 3
    b.serve(2)
    assert b.port.published[-1].engine.startswith("tiny")
    status = b.status("engine")
    assert (status.level, status.values["return_count"]) == (Level.OK, "1")


def test_the_deadline_is_watched_while_the_inference_lasts_and_a_miss_is_counted_once(bench):
    b = bench().start()
    seen = []

    def run(inputs):
        for _ in range(4):
            b.time.pass_ms(4)
            b.node.watch()
            seen.append(b.status("processing").values.get("consecutive_misses"))
        return one_box_of(b, inputs)

    b.engines["main"].run = run
    b.serve()
    assert seen == [None, None, "1", "1"]
    b.serve()
    assert seen[4:] == ["1", "1", "2", "2"]
    assert b.status("processing").values["total_misses"] == "2"


def test_what_the_drift_watch_takes_is_no_time_of_the_results(bench, monkeypatch):
    b = bench().start()
    b.slow(9)

    def look(*_):
        b.time.pass_ms(5)
        b.node.watch()
        b.node.report()

    monkeypatch.setattr(b.node._drift, "look", look)
    b.serve()
    assert b.node.snapshot().watch.total_misses == 0
    status = b.port.reports[-1]["processing"]
    assert (status.message, status.values["processing_time_ms"]) == ("OK", "9.000")


def test_without_a_watchdog_the_miss_is_seen_when_the_result_comes(bench):
    b = bench().start()
    b.engines["main"].run = lambda inputs: b.time.pass_ms(11) or one_box_of(b, inputs)
    b.serve()
    assert b.status("processing").values["total_misses"] == "1"


def test_time_that_a_frame_waits_counts(bench):
    b = bench().start()
    b.slow(6)
    b.send()
    b.time.pass_ms(5)
    b.node.step()
    status = b.status("processing")
    assert (status.level, status.values["processing_time_ms"]) == (Level.WARN, "11.000")


def test_missing_for_too_long_is_an_error_and_keeping_it_again_ends_that(bench):
    b = bench(max_consecutive_delay_ms=50).start()
    b.slow(11)
    b.serve(3)
    assert b.status("processing").level == Level.WARN
    b.serve(6)
    status = b.status("processing")
    assert (status.level, status.values["is_consecutive_processing_delay_in_range"]) == (Level.ERROR, "False")
    b.slow(1)
    b.serve()
    status = b.status("processing")
    assert (status.level, status.values["consecutive_processing_delay_ms"]) == (Level.OK, "0.000")


def test_silence_after_a_miss_makes_no_error_of_it(bench):
    b = bench(max_consecutive_delay_ms=50).start()
    b.slow(12)
    b.serve()
    b.time.pass_ms(5000)
    status = b.status("processing")
    assert (status.level, status.values["consecutive_processing_delay_ms"]) == (Level.WARN, "1.000")


def test_a_batch_that_is_late_for_too_long_is_an_error_when_it_is_out_too(bench):
    b = bench(max_consecutive_delay_ms=50).start()
    b.slow(70)
    b.serve()
    assert b.status("processing").level == Level.ERROR


def test_a_hanging_inference_deactivates_the_node_which_lives_on_and_publishes_nothing_late(bench):
    b = bench().start()
    b.slow(600)
    b.send()
    b.node.step()
    assert b.node.state == State.INACTIVE
    assert b.dropped() == {"hung": 1}
    assert b.port.published == []
    status = b.status("engine")
    assert (status.level, status.message) == (Level.ERROR, "tiny revision 1, ort: hangs: no answer for 501 ms")
    b.slow(1)
    assert b.node.transition("activate").outcome == "success"
    b.serve()
    assert len(b.port.published) == 1
    assert b.status("engine").level == Level.OK


def test_while_it_hangs_activating_is_refused_but_another_engine_can_be_had(bench, engine):
    b = bench().start()
    stuck, seen = b.engines["main"], []

    def run(inputs):
        b.time.pass_ms(501)
        b.node.watch()
        seen.append(b.node.transition("activate"))
        before = b.node.generation
        b.node.transition("cleanup")
        b.engines["main"] = engine(revision=2)
        b.start()  # and so another worker begins
        b.serve()
        seen.append((stuck.is_open, b.node.generation - before, b.port.published[-1].engine))
        return one_box_of(b, inputs)

    stuck.run = run
    b.send()
    b.node.step()
    assert seen[0].outcome == "failure"
    assert "still hangs; clean up, and configure again" in seen[0].reason
    assert seen[1] == (True, 1, "tiny revision 2, ort")
    assert not stuck.is_open
    assert b.node.state == State.ACTIVE
    assert b.is_exact()


def test_a_failing_inference_deactivates_the_node_and_says_why(bench):
    b = bench().start()
    b.engines["main"].run = fails
    b.serve()
    assert b.node.state == State.INACTIVE
    assert b.dropped() == {"failed": 1}
    assert b.status("engine").message.startswith("tiny revision 1, ort: inference failed: ort: expected an answer")
    assert b.port.steps[-1].reason == b.status("engine").message


def test_values_that_are_not_finite_are_a_failure(bench):
    b = bench().start()
    b.engines["main"].run = lambda _: {"boxes": np.full((1, 6, 2), math.nan, np.float32)}
    b.serve()
    assert "expected finite values" in b.status("engine").message


def test_as_many_failures_in_a_row_are_forgiven_as_the_settings_say(bench):
    b = bench(max_failures=2).start()
    run = b.engines["main"].run
    for now in (fails, run, fails, run):
        b.engines["main"].run = now
        b.serve()
    assert b.node.state == State.ACTIVE
    b.engines["main"].run = fails
    b.serve(2)
    assert b.node.state == State.INACTIVE
    assert b.dropped() == {"failed": 4}


# --- hot swap


def test_a_bundle_is_swapped_between_frames_and_the_old_one_freed_after_the_trial(bench, engine):
    b = bench(probation=3).start()
    old = b.engines["main"]
    b.engines["new"] = engine(revision=2, classes=("car", "person", "bus"))
    b.engines["new"].run = lambda _: {"boxes": np.zeros((1, 7, 2), np.float32)}
    b.serve()
    b.node.swap("new")
    b.serve(2)
    assert old.is_open
    assert [r.engine for r in b.port.published] == ["tiny revision 1, ort"] + ["tiny revision 2, ort"] * 2
    assert [a.classes for a in b.port.announced] == [("car", "person"), ("car", "person", "bus")]
    b.serve()
    assert not old.is_open
    assert b.status("engine").values["last_swap"] == "swap: tiny revision 2, ort has passed its trial"


def test_a_swap_while_an_inference_is_under_way_waits_for_its_end(bench, engine):
    b = bench().start()
    b.engines["new"] = engine(revision=2)
    b.engines["main"].run = lambda inputs: b.node.swap("new") or one_box_of(b, inputs)
    b.serve(2)
    assert [r.engine.split(",")[0] for r in b.port.published] == ["tiny revision 1", "tiny revision 2"]


@pytest.mark.parametrize("how", ["fails", "late"])
def test_a_new_engine_that_fails_or_is_late_is_rolled_back(bench, engine, how):
    b = bench(fallback=True, fall_back_after=2).start()
    b.engines["new"] = engine(revision=2)
    if how == "fails":
        b.engines["new"].run = fails
    else:
        b.slow(11, "new")
    b.node.swap("new")
    b.serve(2)
    b.serve(2)
    assert b.node.state == State.ACTIVE
    assert b.port.published[-1].engine == "tiny revision 1, ort"
    assert b.engines["main"].is_open
    assert not b.engines["new"].is_open
    status = b.status("engine")
    assert status.level == Level.WARN
    assert status.message.startswith("swap: rolled back: ")
    assert [a.revision for a in b.port.announced] == [1, 2, 1]


@pytest.mark.parametrize("misses", [1, 9])
def test_a_new_engine_that_hangs_is_rolled_back_and_another_worker_serves_with_the_one_before(bench, engine, misses):
    b = bench(fall_back_after=misses).start()
    new = b.engines["new"] = engine(revision=2)
    seen = []

    def run(inputs):
        before = b.node.generation
        b.time.pass_ms(11)
        b.node.watch()  # a miss, the first, may have rolled it back already
        b.time.pass_ms(490)
        b.node.watch()
        b.serve()
        seen.append((b.node.state, b.node.generation - before, b.port.published[-1].engine, new.is_open))
        return one_box_of(b, inputs)

    new.run = run
    b.node.swap("new")
    b.serve()
    assert seen == [(State.ACTIVE, 1, "tiny revision 1, ort", True)]
    assert (new.is_open, b.dropped(), len(b.port.published)) == (False, {"hung": 1}, 1)
    status = b.status("engine")
    why = "it missed the deadline too often" if misses == 1 else "tiny revision 2, ort: hangs: no answer for 501 ms"
    assert (status.level, status.message) == (Level.WARN, f"swap: rolled back: {why}")
    b.serve()
    assert b.port.published[-1].engine == "tiny revision 1, ort"


def test_an_engine_that_hangs_when_another_bundle_has_been_configured_stops_nothing(bench, engine):
    b = bench().start()

    def run(inputs):
        b.node.transition("deactivate")
        b.node.transition("cleanup")
        b.engines["main"] = engine(revision=2)
        b.start()
        b.time.pass_ms(501)
        b.node.watch()
        b.serve()
        return one_box_of(b, inputs)

    b.engines["main"].run = run
    b.serve()
    assert (b.node.state, b.port.published[-1].engine) == (State.ACTIVE, "tiny revision 2, ort")


def test_a_swap_that_is_refused_changes_nothing(bench, engine):
    b = bench(fallback=True).start()
    b.engines["other"] = engine(classes=("bus",))
    with pytest.raises(EngineError, match="absent: expected a bundle"):
        b.node.swap("absent")
    with pytest.raises(EngineError, match="swap: expected the classes car, person, got bus"):
        b.node.swap("other")
    assert not b.engines["other"].is_open
    b.serve()
    assert b.port.published[-1].engine == "tiny revision 1, ort"
    status = b.status("engine")
    assert status.level == Level.WARN
    assert status.message.startswith("swap: refused: swap: expected the classes")


def test_a_node_that_is_not_configured_takes_no_swap(bench, engine):
    b = bench()
    with pytest.raises(EngineError, match="configure it first"):
        b.node.swap("main")
    assert not b.engines["main"].is_open


def test_an_inactive_node_swaps_at_once_and_announces_it_when_it_is_activated(bench, engine):
    b = bench()
    b.engines["new"] = engine(revision=2)
    b.node.transition("configure")
    b.node.swap("new")
    assert b.status("engine").values["engine"] == "tiny revision 2, ort"
    assert b.port.announced == []
    b.node.transition("activate")
    assert [a.revision for a in b.port.announced] == [2]


def test_a_swap_while_another_is_on_trial_ends_that_trial(bench, engine):
    b = bench(probation=9).start()
    b.engines |= {"2": engine(revision=2), "3": engine(revision=3)}
    for name in ("2", "3"):
        b.node.swap(name)
        b.serve()
    assert [name for name, e in b.engines.items() if e.is_open] == ["2", "3"]
    b.engines["3"].run = fails
    b.serve(2)
    assert b.port.published[-1].engine == "tiny revision 2, ort"


@pytest.mark.parametrize("over", [False, True])
def test_a_swap_that_is_offered_while_the_primary_hangs_is_refused_with_that_reason(bench, engine, over):
    b = bench().start()
    b.engines["2"] = engine(revision=2)

    def run(inputs):
        b.time.pass_ms(501)
        if over:  # the watchdog has seen it already
            b.node.watch()
            with pytest.raises(EngineError, match="expected an engine that answers, got one that still hangs"):
                b.node.swap("2")
        else:
            b.node.swap("2")
            b.node.watch()
        return one_box_of(b, inputs)

    b.engines["main"].run = run
    b.serve()
    assert (b.node.state, b.engines["2"].is_open) == (State.INACTIVE, False)
    assert b.status("engine").values["last_swap"].startswith("swap: refused: tiny revision 1, ort: ")


@pytest.mark.parametrize("when", ["before a frame", "during an inference"])
def test_a_swap_that_is_offered_before_the_deactivation_takes_over_all_the_same(bench, engine, when):
    b = bench().start()
    b.engines["2"] = engine(revision=2)

    def swap_and_stop(inputs=None):
        b.node.swap("2")
        b.node.transition("deactivate")
        return inputs and one_box_of(b, inputs)

    if when == "before a frame":
        swap_and_stop()
    else:
        b.engines["main"].run = swap_and_stop
        b.serve()
    assert b.status("engine").values["last_swap"] == "swap: tiny revision 2, ort is on trial"
    b.node.transition("activate")
    assert [announcement.revision for announcement in b.port.announced] == [1, 2]


def test_after_a_clean_up_no_swap_is_to_take_over(bench, engine):
    b = bench().start()
    b.engines["2"] = engine(revision=2)
    b.node.swap("2")
    b.node.transition("deactivate")
    b.node.transition("cleanup")
    assert b.status("engine").values["last_swap"] == ""
    assert not b.engines["2"].is_open


def test_two_swaps_before_a_frame_leave_the_last_one(bench, engine):
    b = bench(probation=1).start()
    b.engines |= {"2": engine(revision=2), "3": engine(revision=3)}
    b.node.swap("2")
    b.node.swap("3")
    b.serve(2)
    assert b.port.published[-1].engine == "tiny revision 3, ort"
    assert [name for name, e in b.engines.items() if e.is_open and name != "small"] == ["3"]


def test_a_roll_back_leads_to_what_served_before_which_is_the_fallback_where_the_primary_was_too_slow(bench, engine):
    b = bench(fallback=True, fall_back_after=2, return_after=4).start()
    b.slow(11)
    b.serve(2)
    b.slow(1, "small")
    b.serve(2)
    b.engines["new"] = engine(revision=2)
    b.slow(11, "new")
    b.node.swap("new")
    b.serve(2)
    status = b.status("engine")
    assert status.values["last_swap"] == "swap: rolled back: it missed the deadline too often"
    assert (status.values["active_engine"], status.values["inferences_to_return"]) == ("small revision 1, ort", "2")
    b.serve(2)
    assert b.port.published[-1].engine.startswith("small")
    assert b.status("engine").values["return_count"] == "1"


def test_misses_and_fallbacks_are_counted_on_over_swaps_and_activations_until_the_node_is_configured_anew(
    bench, engine
):
    b = bench(fallback=True, fall_back_after=2, probation=3).start()
    b.engines |= {"late": engine(revision=2), "good": engine(revision=3)}

    def counted():
        watch = b.node.snapshot().watch
        return watch.total_misses, watch.fallbacks

    b.slow(11)
    b.serve(2)
    assert counted() == (2, 1)
    b.slow(11, "late")
    b.node.swap("late")
    b.serve(2)  # rolled back, by a miss that counts as every other: no fallback
    assert counted() == (4, 1)
    b.node.swap("good")
    b.serve(3)
    assert counted() == (4, 1)
    b.node.transition("deactivate")
    b.node.transition("activate")
    assert counted() == (4, 1)
    b.node.transition("deactivate")
    b.node.transition("cleanup")
    assert counted() == (4, 1)
    b.node.transition("configure")
    assert counted() == (0, 0)


def test_a_node_that_is_cleaned_up_on_its_fallback_is_not_on_it_any_more(bench):
    b = bench(fallback=True, fall_back_after=2).start()
    b.slow(11)
    b.serve(2)
    assert b.status("engine").level == Level.WARN
    b.node.transition("deactivate")
    b.node.transition("cleanup")
    status = b.status("engine")
    assert (status.level, status.values["is_on_fallback"]) == (Level.OK, "False")


def test_a_new_primary_that_is_slow_at_once_does_not_pay_for_the_returns_of_the_one_before(bench, engine):
    b = bench(fallback=True, fall_back_after=2, return_after=4, probation=1).start()
    b.slow(11)
    b.serve(2)
    b.slow(1)
    b.serve(4)  # back
    b.engines["new"] = engine(revision=2)
    b.node.swap("new")
    b.serve()
    b.slow(11, "new")
    b.serve(2)
    assert b.status("engine").values["inferences_to_return"] == "4"


def test_a_trial_that_is_passed_ends_the_warning_of_a_swap_that_was_refused_meanwhile(bench, engine):
    b = bench(probation=2).start()
    b.engines["2"] = engine(revision=2)
    b.node.swap("2")
    b.serve()
    with pytest.raises(EngineError):
        b.node.swap("absent")
    assert b.status("engine").level == Level.WARN
    b.serve()
    status = b.status("engine")
    assert (status.level, status.values["last_swap"]) == (Level.OK, "swap: tiny revision 2, ort has passed its trial")
