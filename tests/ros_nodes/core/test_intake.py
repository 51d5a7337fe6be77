import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calibration.frame import CompressedImage, Header
from ros_nodes.core.intake import Intake, Waiting

CAMERAS = ("front", "left", "right")


def frame(camera, arrived, stamp=None, age=0):
    header = Header(0, arrived if stamp is None else stamp, camera)
    return Waiting(camera, CompressedImage(header, "jpeg", np.zeros(1, np.uint8)), arrived, age)


def taken(intake, now, capacity=8):
    found = intake.take(now, capacity)
    return [(w.camera, w.arrived_ns) for w in found.batch], [(w.camera, w.arrived_ns) for w in found.stale]


def test_only_the_newest_frame_of_a_camera_waits():
    intake, old = Intake(CAMERAS, 100), frame("front", 1)
    assert intake.put(old) is None
    assert intake.put(frame("front", 5)) is old
    assert taken(intake, 6) == ([("front", 5)], [])
    assert taken(intake, 7) == ([], [])


def test_newest_is_by_stamp_not_by_arrival():
    intake, overtaken = Intake(CAMERAS, 100), frame("front", 7, stamp=2)
    intake.put(frame("front", 5, stamp=3))
    assert intake.put(overtaken) is overtaken
    assert taken(intake, 8) == ([("front", 5)], [])


def test_a_frame_is_stale_when_its_turn_comes_too_late_its_age_on_arrival_included():
    intake = Intake(CAMERAS, 100)
    intake.put(frame("front", 50, age=60))
    intake.put(frame("left", 50))
    assert taken(intake, 90) == ([("front", 50), ("left", 50)], [])
    intake.put(frame("front", 50, age=60))
    intake.put(frame("left", 50))
    assert taken(intake, 91) == ([("left", 50)], [("front", 50)])


def test_a_batch_waits_for_the_other_cameras_but_no_longer_than_the_window():
    intake = Intake(CAMERAS, 1000, window_ns=20)
    intake.put(frame("front", 100))
    assert intake.due_ns(8) == 120
    assert taken(intake, 119) == ([], [])
    intake.put(frame("left", 110))
    assert taken(intake, 120) == ([("front", 100), ("left", 110)], [])


def test_a_batch_goes_at_once_when_every_camera_is_there_or_the_engine_is_full():
    intake = Intake(CAMERAS, 1000, window_ns=20)
    for camera in CAMERAS:
        intake.put(frame(camera, 100))
    assert len(taken(intake, 101)[0]) == 3
    for camera in CAMERAS[:2]:
        intake.put(frame(camera, 200))
    assert taken(intake, 201, capacity=2)[0] == [("front", 200), ("left", 200)]


def test_newer_frames_do_not_put_the_batch_off():
    intake = Intake(CAMERAS, 1000, window_ns=20)
    for arrived in range(100, 125, 5):
        intake.put(frame("front", arrived))
    assert intake.due_ns(8) == 120
    assert taken(intake, 121) == ([("front", 120)], [])
    assert intake.due_ns(8) is None


def test_cameras_take_turns_where_the_engine_takes_fewer_than_there_are():
    intake, served = Intake(CAMERAS, 1000), []
    for now in range(6):
        for camera in CAMERAS:
            intake.put(frame(camera, now))
        served += [camera for camera, _ in taken(intake, now, capacity=1)[0]]
    assert served == [*CAMERAS, *CAMERAS]


def test_clearing_returns_all_that_waited():
    intake = Intake(CAMERAS, 10, window_ns=5)
    intake.put(frame("front", 1))
    intake.put(frame("left", 2))
    assert [w.camera for w in intake.clear()] == ["front", "left"]
    assert (len(intake), intake.due_ns(8)) == (0, None)


@given(
    st.lists(st.tuples(st.sampled_from([*CAMERAS, "take"]), st.integers(0, 30), st.integers(1, 4)), max_size=60),
    st.integers(0, 40),
)
def test_every_frame_comes_out_once_and_none_waits_beyond_the_window_or_twice_for_a_camera(events, window):
    intake, now, put, out = Intake(CAMERAS, 50, window), 0, [], []
    for what, passes, capacity in events:
        now += passes
        if what == "take":
            found = intake.take(now, capacity)
            out += [*found.batch, *found.stale]
            assert all(w.age_at(now) <= 50 for w in found.batch)
            assert len(found.batch) <= capacity
            # What is left is not due, or there was no room for it.
            due = intake.due_ns(capacity)
            assert len(found.batch) == capacity or due is None or due > now
        else:
            new = frame(what, now)
            put.append(new)
            lost = intake.put(new)
            out += [lost] if lost else []
        assert len(intake) == len(put) - len(out) <= len(CAMERAS)
    out += intake.clear()
    assert sorted(map(id, out)) == sorted(map(id, put))
