"""Quality of service in rclpy's words."""

import pytest

from ros_nodes.qos import LATCHED, Events, Qos

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def quality(world):
    import importlib

    return importlib.import_module("ros_nodes.rclpy_node.quality")


def test_a_quality_is_what_rclpy_calls_it(quality):
    profile = quality.profile(Qos(depth=3, deadline_ms=50, lifespan_ms=0.5))
    assert (profile.history.name, profile.depth) == ("KEEP_LAST", 3)
    assert (profile.reliability.name, profile.durability.name) == ("BEST_EFFORT", "VOLATILE")
    assert (profile.deadline.nanoseconds, profile.lifespan.nanoseconds) == (50_000_000, 500_000)
    profile = quality.profile(LATCHED)
    assert (profile.reliability.name, profile.durability.name) == ("RELIABLE", "TRANSIENT_LOCAL")
    assert profile.deadline.nanoseconds == 0  # not said


class Silent:
    def get_logger(self):
        return self

    def warning(self, text):
        self.said = text


class Info:
    total_count_change = 2
    last_policy_kind = 4  # RMW_QOS_POLICY_DEADLINE: 1 << 2
    not_alive_count_change = 1


def test_every_event_is_counted_by_its_topic_and_logged(quality):
    node, events = Silent(), Events()
    callbacks = quality.Listener(node, events).subscribed("/front", lambda made: made)
    callbacks.deadline(Info)
    callbacks.incompatible_qos(Info)
    callbacks.liveliness(Info)
    callbacks.message_lost(Info)
    status = events.status()
    assert status.values == {
        "/front deadline_missed": "2",
        "/front incompatible_qos": "2",
        "/front liveliness_lost": "1",
        "/front message_lost": "2",
    }
    assert node.said == "/front: message_lost"
    assert "/front incompatible_qos DEADLINE" in status.message


def test_an_end_in_peace_is_no_loss_of_liveliness(quality):
    class Ended:
        not_alive_count_change = -1

    events = Events()
    quality.Listener(Silent(), events).subscribed("/front", lambda made: made).liveliness(Ended)
    assert events.status().values == {}


def test_a_middleware_without_some_events_has_the_others(quality):
    def create(callbacks):
        if callbacks.liveliness or callbacks.message_lost:
            raise quality.UnsupportedEventTypeError("not here")
        return callbacks

    made = quality.Listener(Silent(), Events()).subscribed("/front", create)
    assert made.deadline is not None
    assert made.incompatible_qos is not None


def test_a_middleware_without_any_events_has_subscriptions_all_the_same(quality):
    def create(callbacks):
        if callbacks.deadline:
            raise quality.UnsupportedEventTypeError("not here")
        return "made"

    assert quality.Listener(Silent(), Events()).subscribed("/front", create) == "made"
