import pytest
from pydantic import ValidationError

from ros_nodes.core.diagnostics import Level
from ros_nodes.qos import LATCHED, Events, Qos
from ros_nodes.topics import image_type


def test_a_camera_is_heard_best_effort_with_the_last_image_kept():
    assert Qos().model_dump(exclude_none=True) == {"reliability": "best_effort", "durability": "volatile", "depth": 1}
    assert LATCHED.durability == "transient_local"


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"deadline_ms": 0}, {"reliability": "sometimes"}, {"history": "all"}])
def test_what_is_no_qos_is_refused(wrong):
    with pytest.raises(ValidationError):
        Qos(**wrong)


def test_topics_that_end_in_compressed_carry_files():
    assert image_type("/front/image_raw") == "sensor_msgs/msg/Image"
    assert image_type("/front/image_raw/compressed") == "sensor_msgs/msg/CompressedImage"


def test_without_events_the_transport_is_ok():
    status = Events().status()
    assert (status.level, status.name, status.message, status.values) == (Level.OK, "transport", "OK", {})


def test_a_missed_deadline_is_a_warning_once_and_counted_for_ever():
    events = Events()
    events.add("/front", "deadline_missed", 3)
    first, second = events.status(), events.status()
    assert (first.level, first.message) == (Level.WARN, "/front deadline_missed")
    assert (second.level, second.message) == (Level.OK, "OK")
    assert first.values == second.values == {"/front deadline_missed": "3"}


def test_incompatible_qos_is_a_warning_as_long_as_such_an_endpoint_is_there():
    events = Events()
    events.add("/front", "incompatible_qos", why="reliability")
    events.add("/left", "incompatible_qos", 0)
    assert events.topics("incompatible_qos") == {"/front"}
    told = [events.status(unmatched).message for unmatched in (["/front"], ["/front"], [], ["/front"], [])]
    assert told == [*["/front incompatible_qos reliability"] * 2, "OK", "/front incompatible_qos reliability", "OK"]
    assert events.total("incompatible_qos") == 1


def test_one_that_has_left_before_it_was_told_is_news_once():
    events = Events()
    events.add("/front", "incompatible_qos")
    assert [events.status().level for _ in range(2)] == [Level.WARN, Level.OK]
