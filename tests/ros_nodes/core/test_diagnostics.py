from dataclasses import replace

import pytest

from ros_nodes.core.counts import Tally
from ros_nodes.core.diagnostics import CameraView, EngineView, Level, Snapshot, diagnose
from ros_nodes.core.lifecycle import State
from ros_nodes.core.result import Moments
from ros_nodes.core.watch import Limits, Watch

MS = 1_000_000
CAMERA = CameraView("ok", "", Tally(received=3, published=2).counts, (48, 96), 0, None, 5 * MS)
CALM = Snapshot(
    now_ns=1000 * MS,
    state=State.ACTIVE,
    engines=EngineView(active="tiny", primary="tiny", fallback="small"),
    watch=Watch(took_ns=7 * MS),
    limits=Limits(10 * MS, has_fallback=True),
    max_delay_ns=100 * MS,
    working_ns=None,
    moments=Moments(0, 1 * MS, 2 * MS, 4 * MS, 6 * MS, 7 * MS),
    cameras={"front": CAMERA},
)


def status(name, **changes):
    return {status.name: status for status in diagnose(replace(CALM, **changes))}[name]


def test_processing_has_the_keys_of_autoware_and_disjoint_stages():
    found = status("processing")
    assert (found.level, found.message) == (Level.OK, "OK")
    assert found.values == {
        "processing_time_ms": "7.000",
        "is_processing_time_ms_in_expected_range": "True",
        "consecutive_processing_delay_ms": "0.000",
        "is_consecutive_processing_delay_in_range": "True",
        "deadline_ms": "10.000",
        "consecutive_misses": "0",
        "total_misses": "0",
        "waiting_time_ms": "1.000",
        "decode_time_ms": "1.000",
        "preprocess_time_ms": "2.000",
        "inference_time_ms": "2.000",
        "postprocess_time_ms": "1.000",
    }


@pytest.mark.parametrize(
    ("took", "late_since", "working", "level", "time"),
    [
        (10, None, None, Level.OK, "10.000"),
        (11, 979, None, Level.WARN, "11.000"),
        (11, 889, None, Level.WARN, "11.000"),
        (11, 879, None, Level.ERROR, "11.000"),
        (7, 899, 8, Level.ERROR, "7.000"),
        (7, None, 10, Level.OK, "7.000"),
        (7, None, 60, Level.WARN, "60.000"),
        (80, None, 60, Level.WARN, "80.000"),
        (None, 1000, 60, Level.WARN, "60.000"),
    ],
)
def test_levels_follow_the_time_that_it_took_or_has_taken_so_far(took, late_since, working, level, time):
    watch = Watch(
        took_ns=None if took is None else took * MS,
        late_since_ns=None if late_since is None else late_since * MS,
        late_until_ns=980 * MS,
    )
    found = status("processing", watch=watch, working_ns=None if working is None else working * MS)
    assert (found.level, found.values["processing_time_ms"]) == (level, time)


def test_without_a_result_it_waits_and_without_a_bundle_it_says_where_it_is():
    assert status("processing", watch=Watch()).message == "waiting for the first result"
    assert status("processing", state=State.UNCONFIGURED, limits=None).message == "unconfigured"


@pytest.mark.parametrize(
    ("engines", "watch", "level", "message"),
    [
        ({}, Watch(), Level.OK, "OK"),
        ({"active": ""}, Watch(), Level.OK, "active"),
        ({"active": "small"}, Watch(on_fallback=True), Level.WARN, "the deadline was missed: on the fallback, small"),
        ({"swap": "swap: refused: x", "swap_failed": True}, Watch(), Level.WARN, "swap: refused: x"),
        ({"fault": "tiny: hangs"}, Watch(on_fallback=True), Level.ERROR, "tiny: hangs"),
    ],
)
def test_the_engine_says_what_serves_and_what_went_wrong_the_worst_first(engines, watch, level, message):
    found = status("engine", engines=replace(CALM.engines, **engines), watch=watch)
    assert (found.level, found.message) == (level, message)


def test_on_the_fallback_it_tells_how_far_the_way_back_is():
    found = status("engine", watch=Watch(on_fallback=True, easy=30, doublings=1, fallbacks=2, returns=1))
    assert found.values["inferences_to_return"] == "170"
    assert (found.values["fallback_count"], found.values["return_count"]) == ("2", "1")


@pytest.mark.parametrize(
    ("changes", "level", "message"),
    [
        ({}, Level.OK, "OK"),
        ({"state": "waiting", "silent_ns": None}, Level.WARN, "waiting for the first image"),
        ({"state": "waiting", "silent_ns": 1500 * MS}, Level.ERROR, "waiting: no image for 1500.000 ms"),
        ({"state": "stale", "why": "late"}, Level.WARN, "stale: late"),
        ({"state": "rejected", "why": "odd"}, Level.ERROR, "rejected: odd"),
        ({"resizes": 1, "resized_ns": 0}, Level.WARN, "resized: its images have another size than before"),
        ({"resizes": 1, "resized_ns": 6000 * MS}, Level.OK, "OK"),
    ],
)
def test_a_camera_says_what_became_of_its_last_image(changes, level, message):
    found = status("camera front", cameras={"front": replace(CAMERA, **changes)})
    assert (found.level, found.message) == (level, message)


def test_a_camera_s_counts_are_all_there():
    values = status("camera front").values
    assert (values["received"], values["published"], values["pending"], values["size"]) == ("3", "2", "1", "96x48")
    assert {key for key in values if key.startswith("dropped_")} == {
        f"dropped_{reason}"
        for reason in ("superseded", "stale", "inactive", "rejected", "failed", "hung", "unpublished")
    }


def test_a_node_that_is_not_active_blames_no_camera():
    found = status("camera front", state=State.INACTIVE, cameras={"front": replace(CAMERA, state="waiting")})
    assert (found.level, found.message) == (Level.OK, "inactive")
