"""The managed node on an installed ROS 2: lifecycle, parameters, topics, QoS, as a foreign node sees them."""

import threading
import time

import numpy as np
import pytest

from calibration.frame import CompressedImage, Header, RawImage

pytestmark = pytest.mark.ros

IMAGE = "sensor_msgs/msg/Image"
DETECTIONS = "vision_msgs/msg/Detection2DArray"
FRONT = "/vision/front/image"
HEADER = Header(1_700_000_000, 123_456_789, "front_optical")


def picture(value=80, encoding="rgb8", header=HEADER):
    return RawImage(header, 48, 96, encoding, 288, np.full(48 * 288, value, np.uint8))


def until(is_so, what="it", patience_s=20.0):
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.01)


def _values(world, status):
    """Of the last diagnostics; nothing before the first."""
    return world.statuses().get(status, (0, "", {}))[2]


# --- lifecycle


def test_services_lead_through_the_whole_lifecycle(ros):
    world = ros()
    seen = [world.state]
    for transition in ("configure", "activate", "deactivate", "cleanup", "configure", "cleanup", "shutdown"):
        assert world.change(transition), transition
        seen.append(world.state)
    expected = ["unconfigured", "inactive", "active", "inactive", "unconfigured", "inactive", "unconfigured"]
    assert seen == [*expected, "finalized"]
    assert not world.bench.engines["main"].is_open


def test_a_bundle_that_is_not_there_leaves_the_node_unconfigured(ros):
    world = ros(bundle="nowhere")
    assert not world.change("configure")
    assert world.state == "unconfigured"
    until(lambda: world.statuses().get("engine", (0, "", {}))[0] == 2)
    assert world.statuses()["engine"][1].startswith("nowhere: expected a bundle")
    assert world.set("bundle", "main") == (True, "")
    assert world.change("configure")


def test_a_transition_that_the_state_does_not_have_does_not_end_the_node(ros):
    world = ros()
    with pytest.raises(AssertionError):  # Jazzy's rclpy gives no answer; later ones say no
        assert world.change("activate", patience_s=1)
    assert world.state == "unconfigured"
    world.start()


def test_autostart_configures_and_activates(ros):
    world = ros(autostart=True)
    until(lambda: world.state == "active")


def test_services_answer_while_an_inference_hangs_and_the_node_becomes_inactive(ros, engine):
    release = threading.Event()
    hanging = engine()
    world = ros({"main": hanging}, hang_ms=300.0, warmup=1).start()
    answer = hanging.run
    hanging.run = lambda inputs: (release.wait(20), answer(inputs))[1]
    world.send(FRONT, picture())
    until(lambda: world.node.core.pending == 1)
    asked = time.monotonic()
    assert world.state == "active"
    assert time.monotonic() - asked < 0.3
    until(lambda: world.state == "inactive")
    until(lambda: "hangs: no answer" in world.statuses()["engine"][1])
    release.set()
    assert world.change("cleanup", patience_s=10)
    assert world.change("configure")
    assert world.change("activate")
    world.send(FRONT, picture())
    until(lambda: world.node.core.counts["front"].published == 1)


def test_an_inference_that_fails_deactivates_the_node_in_ros_too(ros, engine):
    failing = engine()
    world = ros({"main": failing}, warmup=1).start()

    def fail(_):
        raise RuntimeError("out of memory")

    failing.run = fail
    world.send(FRONT, picture())
    until(lambda: world.state == "inactive")
    assert world.change("cleanup")


def test_a_node_that_nobody_has_configured_yet_says_that_it_waits(ros):
    world = ros(bundle="", report_every_ms=50.0)
    until(world.statuses)
    assert world.statuses()["engine"][:2] == (0, "unconfigured")
    assert world.statuses()["camera front"][1] == "unconfigured"
    assert not world.change("configure")
    until(lambda: world.statuses()["engine"][0] == 2, "the missing bundle in the diagnostics")
    assert world.statuses()["engine"][1] == "bundle: expected a value, got none; set the parameter"
    assert world.set("bundle", "main") == (True, "")
    world.start()
    until(lambda: world.statuses()["engine"][0] == 0)


def test_parameters_that_are_wrong_from_the_start_are_told_by_configure(ros):
    world = ros(max_age_ms=0.0)
    until(world.statuses)
    assert not world.change("configure")
    until(lambda: world.statuses()["engine"][1].startswith("max_age_ms: expected greater than 0"))
    assert world.set("max_age_ms", 50.0) == (True, "")
    world.start()
    assert world.node.core.settings.max_age_ms == 50.0


def test_a_publisher_that_cannot_be_made_keeps_the_node_from_becoming_active(ros):
    world = ros(**{"qos_overrides./vision/front/detections.publisher.reliability": "relable"}, report_every_ms=50.0)
    assert world.change("configure")
    assert not world.change("activate")
    assert world.state == "unconfigured"
    until(world.statuses, "the first diagnostics")
    until(lambda: world.statuses()["engine"][0] == 2, "the failure in them")
    assert not world.bench.engines["main"].is_open


def test_a_result_that_has_no_publisher_is_counted_as_unpublished(ros):
    world = ros(report_every_ms=50.0).start()
    del world.node._port._publishers["/vision/front/detections"]
    world.send(FRONT, picture())
    until(lambda: world.node.core.counts["front"].dropped["unpublished"] == 1)
    until(lambda: "expected a publisher" in _values(world, "engine").get("last_transport_error", ""))


def test_ros_follows_a_core_that_stops_by_itself_also_when_it_was_asked_to_meanwhile(ros):
    world = ros().start()
    port, unsubscribe = world.node._port, world.node._port.unsubscribe
    begun, release = threading.Event(), threading.Event()
    port.unsubscribe = lambda: (begun.set(), release.wait(10), unsubscribe())
    stopping = threading.Thread(target=world.node.core.transition, args=("deactivate",))
    stopping.start()
    assert begun.wait(10)
    assert not world.change("deactivate")
    assert world.state == "active"
    release.set()
    stopping.join(10)
    until(lambda: world.state == "inactive")


# --- topics


def test_a_foreign_camera_s_image_comes_back_as_boxes_under_its_own_header(ros):
    world = ros()
    heard = world.listen("/vision/front/detections", DETECTIONS)
    world.start()
    world.send(FRONT, picture())
    until(lambda: heard)
    (message,) = heard
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (HEADER.sec, HEADER.nanosec)
    assert message.header.frame_id == "front_optical"
    (box,) = message.detections
    assert box.results[0].hypothesis.class_id == "0"
    assert (box.bbox.center.position.x, box.bbox.center.position.y) == pytest.approx((48.0, 24.0))


def test_who_comes_late_still_hears_the_names_of_the_classes(ros):
    world = ros().start()
    time.sleep(0.5)
    labels = world.listen("/vision/label_info", "vision_msgs/msg/LabelInfo", latched=True)
    info = world.listen("/vision/vision_info", "vision_msgs/msg/VisionInfo", latched=True)
    until(lambda: labels and info)
    assert [(c.class_id, c.class_name) for c in labels[0].class_map] == [(0, "car"), (1, "person")]
    assert (info[0].method, info[0].database_location) == ("tiny", "/vision/label_info")


def test_masks_and_files(ros, segmenter):
    import cv2

    world = ros({"main": segmenter()}, image_topics=["/front/image_raw/compressed"])
    heard = world.listen("/vision/front/mask", IMAGE)
    world.start()
    _, file = cv2.imencode(".png", np.full((48, 96, 3), (0, 200, 0), np.uint8))
    world.send("/front/image_raw/compressed", CompressedImage(HEADER, "png", file.reshape(-1)))
    until(lambda: heard)
    (mask,) = heard
    assert (mask.encoding, mask.height, mask.width, mask.step) == ("mono8", 48, 96, 96)
    assert set(mask.data) == {1}


def test_times_and_diagnostics_are_published(ros):
    world = ros(report_every_ms=50.0)
    took = world.listen("/vision/debug/processing_time_ms", "std_msgs/msg/Float64")
    world.start()
    world.send(FRONT, picture())
    until(lambda: took and _values(world, "camera front").get("published") == "1")
    assert 0 < took[0].data < 10_000
    assert "inference_time_ms" in world.statuses()["processing"][2]
    assert world.statuses()["transport"][0] == 0


def test_an_image_that_cannot_be_read_is_told_and_the_next_is_served(ros):
    world = ros(report_every_ms=50.0).start()
    world.send(FRONT, picture(encoding="bayer_rggb8"))
    until(lambda: world.statuses().get("camera front", (0, ""))[1].startswith("rejected"))
    world.send(FRONT, picture())
    until(lambda: world.node.core.counts["front"].published == 1)


def test_each_camera_has_topics_of_its_own(ros):
    world = ros(cameras=["front", "left"])
    heard = {camera: world.listen(f"/vision/{camera}/detections", DETECTIONS) for camera in ("front", "left")}
    world.start()
    world.send("/vision/left/image", picture())
    until(lambda: heard["left"])
    assert not heard["front"]


def test_an_overlay_is_drawn_where_it_is_asked_for(ros):
    world = ros(overlay_every_ms=1.0)
    heard = world.listen("/vision/front/overlay", IMAGE)
    world.start()
    world.send(FRONT, picture())
    until(lambda: heard)
    (shown,) = heard
    assert (shown.encoding, shown.height, shown.width) == ("rgb8", 48, 96)
    assert len(set(shown.data)) > 1  # a box on the grey


def test_without_that_there_is_no_overlay(ros):
    world = ros().start()
    assert "/vision/front/overlay" not in dict(world.foreign.get_topic_names_and_types())


# --- parameters


def test_parameters_are_described(ros):
    world = ros()
    described = world.describe("return_share")
    assert described.description == "the share of the deadline that they may take"
    assert (described.floating_point_range[0].from_value, described.floating_point_range[0].to_value) == (0.0, 1.0)
    assert world.describe("keys").read_only
    assert not world.describe("bundle").read_only


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("return_share", 1.5, "out of range"),
        ("max_age_ms", 0.0, "max_age_ms: expected greater than 0"),
        ("max_age_ms", "much", "Wrong parameter type"),
        ("age_from", "birth", "expected 'stamp' or 'arrival'"),
        ("allow_unsigned", False, "read-only"),
    ],
)
def test_what_is_wrong_is_refused_with_the_reason(ros, name, value, reason):
    done, why = ros().set(name, value)
    assert not done
    assert reason in why


def test_a_parameter_changes_while_the_node_is_not_configured(ros):
    world = ros()
    assert world.set("max_age_ms", 50.0) == (True, "")
    world.start()
    assert world.node.core.settings.max_age_ms == 50.0
    done, why = world.set("max_age_ms", 60.0)
    assert not done
    assert "clean it up first" in why


def test_after_a_clean_up_other_parameters_make_another_node_on_the_same_topics(ros):
    world = ros(report_every_ms=50.0)
    heard = world.listen("/vision/front/detections", DETECTIONS)
    world.start()
    world.send(FRONT, picture())
    until(lambda: len(heard) == 1)
    assert world.change("deactivate")
    assert world.change("cleanup")
    assert world.set("max_batch", 1) == (True, "")
    world.start()
    publisher = world.advertise(FRONT, IMAGE)
    until(lambda: publisher.get_subscription_count() > 0)
    until(lambda: world.foreign.count_publishers("/vision/front/detections") == 1)
    end = time.monotonic() + 20
    while len(heard) < 2:  # the new publisher may not know its listener yet
        assert time.monotonic() < end
        world.send(FRONT, picture())
        time.sleep(0.1)


def test_setting_the_bundle_swaps_it_while_the_node_serves(ros, engine):
    world = ros({"other": engine("other", revision=7)}, report_every_ms=50.0).start()
    assert world.set("bundle", "other") == (True, "")
    world.send(FRONT, picture())
    until(lambda: _values(world, "engine").get("active_engine") == "other revision 7, ort")
    assert world.state == "active"


def test_a_bundle_that_is_refused_leaves_parameter_and_engine_as_they_were(ros):
    world = ros(report_every_ms=50.0).start()
    done, why = world.set("bundle", "nowhere")
    assert not done
    assert why.startswith("nowhere: expected a bundle")
    assert world.node.get_parameter("bundle").value == "main"
    until(lambda: _values(world, "engine").get("last_swap", "").startswith("swap: refused"))


def test_a_bundle_that_makes_the_runtime_crash_is_refused_and_the_one_before_stays(ros, engine):
    crashing = engine("crashing")

    def served(_):
        raise MemoryError("out of memory\nat allocate")

    crashing.served = served
    world = ros({"crashing": crashing}).start()
    done, why = world.set("bundle", "crashing")
    assert not done
    assert "out of memory" in why
    assert "\n" not in why
    assert world.node.get_parameter("bundle").value == "main"
    assert world.state == "active"


# --- quality of service


def test_a_camera_that_promises_no_deadline_is_told_of_as_incompatible_until_it_leaves(ros):
    world = ros(camera_qos__deadline_ms=50.0, report_every_ms=50.0).start()
    publisher = world.advertise(FRONT, IMAGE)
    until(lambda: _values(world, "transport").get(f"{FRONT} incompatible_qos"))
    level, message, _ = world.statuses()["transport"]
    assert level == 1
    assert "DEADLINE" in message
    assert levels_of_some_more_reports(world) == {1}
    world.foreign.destroy_publisher(publisher)
    until(lambda: world.statuses()["transport"][0] == 0)
    assert _values(world, "transport")[f"{FRONT} incompatible_qos"] == "1"


def levels_of_some_more_reports(world):
    """Of the status of the transport."""
    reports = world.heard["/diagnostics"]
    known = len(reports)
    until(lambda: len(reports) > known + 5)
    found = (s for report in reports[known:] for s in report.status if s.name == "vision: transport")
    return {int.from_bytes(status.level, "little") for status in found}


def test_a_subscriber_that_wants_more_than_is_offered_is_told_until_it_leaves(ros):
    from rclpy.qos import QoSDurabilityPolicy, QoSProfile

    from ros_nodes.rclpy_node.library import message_type

    world = ros(report_every_ms=50.0)
    wants = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    topic = "/vision/front/detections"
    subscription = world.foreign.create_subscription(message_type(DETECTIONS), topic, print, wants)
    world.start()
    until(lambda: _values(world, "transport").get(f"{topic} incompatible_qos"))
    assert levels_of_some_more_reports(world) == {1}
    world.foreign.destroy_subscription(subscription)
    until(lambda: world.statuses()["transport"][0] == 0)


def test_a_camera_that_falls_silent_misses_its_deadline(ros):
    from rclpy.duration import Duration

    world = ros(camera_qos__deadline_ms=50.0, report_every_ms=50.0).start()
    publisher = world.advertise(FRONT, IMAGE, deadline=Duration(nanoseconds=50_000_000))
    until(lambda: publisher.get_subscription_count() > 0)
    world.send(FRONT, picture())
    until(lambda: int(_values(world, "transport").get(f"{FRONT} deadline_missed", "0")) > 0)


def test_a_policy_may_be_overridden_from_outside(ros):
    name = f"qos_overrides.{FRONT}.subscription.reliability"
    world = ros(**{name: "reliable"}).start()
    (info,) = world.foreign.get_subscriptions_info_by_topic(FRONT)
    assert info.qos_profile.reliability.name == "RELIABLE"
    assert world.describe(name).read_only


def test_results_carry_the_lifespan_that_was_asked_for(ros):
    world = ros(result_qos__lifespan_ms=200.0).start()
    (info,) = world.foreign.get_publishers_info_by_topic("/vision/front/detections")
    assert info.qos_profile.lifespan.nanoseconds == 200_000_000


def test_images_that_come_before_ros_has_followed_a_node_that_stopped_by_itself_are_counted(ros, engine, monkeypatch):
    failing = engine()
    world = ros({"main": failing}, warmup=1).start()
    monkeypatch.setattr(world.node._port, "settle", lambda: None)  # ROS is slow to follow

    def fail(_):
        raise RuntimeError("out of memory")

    failing.run = fail
    world.send(FRONT, picture())
    until(lambda: world.state == "inactive")
    world.send(FRONT, picture())
    until(lambda: world.node.core.counts["front"].dropped["inactive"] == 1)
    assert world.node.core.counts["front"].received == 2
    monkeypatch.undo()


def test_after_deactivation_nothing_is_subscribed(ros):
    world = ros().start()
    until(lambda: world.foreign.count_subscribers(FRONT) == 1)
    assert world.change("deactivate")
    until(lambda: world.foreign.count_subscribers(FRONT) == 0)
    assert world.change("activate")
    until(lambda: world.foreign.count_subscribers(FRONT) == 1)
