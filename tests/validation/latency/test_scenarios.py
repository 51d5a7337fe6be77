import gc
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.contract import Measure
from avcompress.spec import RecipeError
from validation.latency import run_scenario, schedule, warm_up
from validation.latency.timing import Time, wait_until

sys.path[:0] = [str(Path(__file__).parent)]

from fake_time import FakeTime  # noqa: E402


def measure(**settings):
    return Measure(**{"runs": 6, "rate_hz": 100.0, **settings})


def test_one_after_the_other_waits_for_nobody(fake):
    stages = {"a": fake.work(1, 2, 3), "b": fake.work(10, 10, 10)}

    found = run_scenario("single_stream", stages, [None], measure(runs=3), fake.time)

    assert found.latency.samples_ms == (11.0, 12.0, 13.0)
    assert found.arrivals_s == (0.0, 0.011, 0.023)
    assert found.stages["a"].samples_ms == (1.0, 2.0, 3.0)
    assert (found.dropped_s, found.seconds, fake.slept) == ((), 0.036, [])


def test_a_stall_is_charged_to_every_image_that_waited(fake):
    # Due every 10 ms; the second takes 35 ms: done at 4, 45, 49, 53, 57, 61.
    found = run_scenario("constant_stream", {"run": fake.work(4, 35, 4, 4, 4, 4)}, [None], measure(queue="every"),
                         fake.time)  # fmt: skip

    assert found.latency.samples_ms == (4.0, 35.0, 29.0, 23.0, 17.0, 11.0)
    assert found.stages["waiting"].samples_ms == (0.0, 0.0, 25.0, 19.0, 13.0, 7.0)
    assert found.stages["run"].samples_ms == (4.0, 35.0, 4.0, 4.0, 4.0, 4.0)
    assert found.arrivals_s == (0.0, 0.01, 0.02, 0.03, 0.04, 0.05)
    assert found.dropped_s == ()


def test_the_newest_image_pushes_out_those_that_still_wait(fake):
    # The second image takes until 45 ms: of those due at 20, 30 and 40 ms the last is taken up.
    found = run_scenario("constant_stream", {"run": fake.work(4, 35, 4, 4)}, [None], measure(), fake.time)

    assert found.arrivals_s == (0.0, 0.01, 0.04, 0.05)
    assert found.latency.samples_ms == (4.0, 35.0, 9.0, 4.0)
    assert found.dropped_s == (0.02, 0.03)


def test_cameras_follow_each_other_by_their_share_of_a_period():
    frames = schedule(5, 10.0, cameras=2)
    assert [(frame.camera, frame.due_ns / 1e6) for frame in frames] == [(0, 0), (1, 50), (0, 100), (1, 150), (0, 200)]


def test_cameras_with_one_trigger_come_at_one_moment(fake):
    found = run_scenario(
        "multi_camera", {"run": fake.work(*[3] * 6)}, [None], measure(cameras=3, phases="same"), fake.time
    )
    assert found.latency.samples_ms == (3.0, 6.0, 9.0) * 2
    assert found.cameras == (0, 1, 2) * 2


def test_a_camera_is_not_starved_by_another(fake):
    # Two cameras, a period of 10 ms each, and 10 ms an image: half of the images can be served, of both in turn.
    found = run_scenario("multi_camera", {"run": fake.work(*[10] * 40)}, [None], measure(runs=40, cameras=2), fake.time)
    assert abs(found.cameras.count(0) - found.cameras.count(1)) <= 1


def test_the_plan_is_absolute_so_a_late_wake_shifts_nothing_after_it(fake):
    def late(seconds):
        fake.sleep(seconds + 0.002)

    by = Time(lambda: fake.now, late, 0)
    found = run_scenario("constant_stream", {"run": fake.work(*[1] * 6)}, [None], measure(), by)

    assert found.arrivals_s == (0.0, 0.01, 0.02, 0.03, 0.04, 0.05)
    assert found.latency.samples_ms == (3.0,) * 6  # the harness's own delay is told, not hidden


def test_images_take_turns(fake):
    seen = []
    run_scenario("single_stream", {"run": seen.append}, ["a", "b"], measure(runs=5), fake.time)
    warm_up({"run": seen.append}, ["c", "d"], 3)
    assert seen == ["a", "b", "a", "b", "a", "c", "d", "c"]


@settings(max_examples=200, deadline=None)
@given(
    work=st.lists(st.integers(0, 60), min_size=1, max_size=60),
    cameras=st.integers(1, 4),
    queue=st.sampled_from(["newest", "every"]),
    phases=st.sampled_from(["spread", "same"]),
)
def test_every_image_is_served_or_dropped_and_none_before_it_is_due(work, cameras, queue, phases):
    fake, runs = FakeTime(), len(work)
    asked = measure(runs=runs, cameras=cameras, queue=queue, phases=phases)
    with mock.patch("gc.collect"):  # it takes far longer than all else here
        found = run_scenario("multi_camera", {"run": fake.work(*work)}, [None], asked, fake.time)

    due = sorted(frame.due_ns / 1e9 for frame in schedule(runs, 100.0, cameras, phases))
    assert sorted((*found.arrivals_s, *found.dropped_s)) == due
    assert len(found.latency.samples_ms) == len(found.arrivals_s) == len(found.cameras)
    assert min(found.stages["waiting"].samples_ms) >= 0
    assert not (found.dropped_s and queue == "every")
    for total, *parts in zip(
        found.latency.samples_ms, *(stage.samples_ms for stage in found.stages.values()), strict=True
    ):
        assert total == pytest.approx(sum(parts))
    # The last image of each camera has nothing newer behind it.
    assert max(due) in found.arrivals_s


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=50))
def test_one_camera_is_the_queue_of_one_server(work):
    # Lindley's recursion: an image waits as long as the one before it, plus that one's work, less the period.
    fake = FakeTime()
    asked = measure(runs=len(work), queue="every")
    with mock.patch("gc.collect"):
        found = run_scenario("constant_stream", {"run": fake.work(*work)}, [None], asked, fake.time)

    waits = [0]
    for service in work[:-1]:
        waits.append(max(0, waits[-1] + service - 10))
    assert list(found.stages["waiting"].samples_ms) == waits


def test_waiting_sleeps_and_then_looks_at_the_clock_without_pause():
    readings = iter([0, 7_999_000, 8_500_000, 9_999_999, 10_000_001])
    slept = []
    wait_until(10_000_000, Time(lambda: next(readings), slept.append, 2_000_000))
    assert slept == [0.008]
    assert next(readings, None) is None


def test_a_moment_that_has_passed_is_not_waited_for():
    slept = []
    wait_until(5, Time(lambda: 10, slept.append, 2))
    assert slept == []


def test_the_garbage_collector_rests_in_a_stream(fake):
    states = []
    run_scenario("constant_stream", {"run": lambda _: states.append(gc.isenabled())}, [0], measure(runs=2), fake.time)
    assert states == [False, False]
    assert gc.isenabled()


def test_no_image_is_refused(fake):
    with pytest.raises(RecipeError, match="expected an image at least, got none"):
        run_scenario("single_stream", {}, [], measure(), fake.time)
