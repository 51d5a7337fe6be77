"""One way to run a node behind each adapter: a script of frames goes in, what was heard comes out, in plain values."""

import io
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.frame import CompressedImage, Header
from engines.postprocess import Detections
from ros_nodes.core.clock import Clock
from ros_nodes.core.node import Node
from ros_nodes.in_process import InProcess

MS = 1_000_000
START = 10**18
CAMERAS = {"front": "/cameras/front", "left": "/cameras/left"}


@dataclass
class Heard:
    """What came out.

    Attributes:
        order: "announcement" or a camera's name, in the order of their coming.
        results: (camera, header, [(x1, y1, x2, y2, score, label)] or a mask).
        announcements: (name, revision, classes).
        statuses: the last of each name: (level, message, values).
        counts: by camera.
    """

    order: list = field(default_factory=list)
    results: list = field(default_factory=list)
    announcements: list = field(default_factory=list)
    statuses: dict = field(default_factory=dict)
    counts: dict = field(default_factory=dict)

    def result(self, camera, header, prediction):
        self.order.append(camera)
        self.results.append((camera, header, prediction))

    def announcement(self, name, revision, classes):
        self.order.append("announcement")
        self.announcements.append((name, revision, classes))


def in_process(script, settings, load, folder: Path) -> Heard:
    heard, now = Heard(), START

    def on_result(result):
        found = result.prediction
        if isinstance(found, Detections):
            rows = zip(found.xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
            found = [(*xyxy, score, label) for xyxy, score, label in rows]
        heard.result(result.camera, result.header, found)

    def on_diagnostics(statuses):
        heard.statuses |= {s.name: (int(s.level), s.message, dict(s.values)) for s in statuses}

    def clock():
        return now

    port = InProcess(on_result, lambda a: heard.announcement(a.name, a.revision, a.classes), on_diagnostics)
    node = Node(settings, port, Clock(clock, clock), load)
    node.transition("configure")
    node.transition("activate")
    for ms, camera, frame in script:
        now = START + ms * MS
        port.send(camera, frame)
        node.step()
    node.report()
    heard.counts = node.counts
    node.transition("shutdown")
    return heard


def bag(storage):
    """The rig of a replay from a bag into a bag."""

    def run(script, settings, load, folder: Path) -> Heard:
        from ros_nodes.bag.replay import Replay, replay

        write_bag(folder / "in", script)
        topics = {camera: CAMERAS[camera] for camera in settings.cameras}
        what = Replay(settings, topics, node="vision", free=True, storage=storage)
        replayed = replay(folder / "in", folder / "out", what, load=load)
        heard = read_bag(folder / "out")
        heard.counts = dict(replayed.counts)
        return heard

    return run


def rclpy_node(script, settings, load, _: Path) -> Heard:
    """A managed node of an installed ROS, a foreign camera and a foreign listener."""
    world = sys.modules["ros_world"]
    topics = {camera: CAMERAS[camera] for camera in settings.cameras}
    topics |= {camera: CAMERAS[camera] + "/compressed" for _, camera, frame in script if hasattr(frame, "format")}
    given = settings.model_dump(mode="json") | {
        "age_from": "arrival",
        "report_every_ms": 50.0,
        # In real time, beside whatever else this machine does.
        "hang_ms": 60_000.0,
        "camera_timeout_ms": 60_000.0,
    }
    given = {name: float(value) if name.endswith("_ms") else value for name, value in given.items() if value}
    with world.World(load, image_topics=list(topics.values()), **given) as both:
        heard, infos, reports = Heard(), {}, []

        def on_diagnostics(message):
            hear(heard, infos, "/diagnostics", message)
            reports.append(message)

        both.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", on_diagnostics)
        for topic, kind in _results(settings.cameras):
            both.listen(
                topic, kind, lambda m, topic=topic: hear(heard, infos, topic, m), latched=topic.endswith("_info")
            )
        both.start()
        for done, (_, camera, frame) in enumerate(script, 1):
            both.send(topics[camera], _as_file(frame) if topics[camera].endswith("/compressed") else frame)
            world.until(lambda n=done: _is_over(both.node.core, n, len(heard.results)), "a frame's end")
        over = time.time_ns()
        # Earlier ones may still be on their way, and the first of the later ones be of what was before.
        world.until(lambda: sum(_stamp_ns(report) > over for report in reports) >= 2, "diagnostics")
        counts, statuses = both.node.core.counts, dict(heard.statuses)  # what it says when it ends is no more of this
    heard.counts, heard.statuses = counts, statuses
    return heard


def _stamp_ns(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def _as_file(frame):
    """A topic has one type: beside files, a camera sends its other images as files, too."""
    if isinstance(frame, CompressedImage):
        return frame
    out = io.BytesIO()
    Image.fromarray(frame.data.reshape(frame.height, frame.width, 3)).save(out, "PNG")
    return CompressedImage(frame.header, "png", np.frombuffer(out.getvalue(), np.uint8))


def _results(cameras):
    for name, kind in (("label_info", "LabelInfo"), ("vision_info", "VisionInfo")):
        yield f"/vision/{name}", f"vision_msgs/msg/{kind}"
    for camera in cameras:
        yield f"/vision/{camera}/detections", "vision_msgs/msg/Detection2DArray"
        yield f"/vision/{camera}/mask", "sensor_msgs/msg/Image"


def _is_over(core, sent, heard):
    """Whether all that was sent has come to an end, and all of it that was published was heard."""
    counts = core.counts.values()
    return sum(c.received - c.pending for c in counts) == sent and sum(c.published for c in counts) == heard


def write_bag(path: Path, script):
    """Frames of a script as a camera's driver would record them."""
    from rosbags.rosbag2 import Writer

    from ros_nodes.bag.library import RosbagsLibrary, encode, typestore
    from ros_nodes.messages.outgoing import frame_message

    library, connections = RosbagsLibrary(), {}
    with Writer(path, version=8) as writer:
        for ms, camera, frame in script:
            message = frame_message(frame, library)
            key = (camera, message.__msgtype__)
            if key not in connections:
                connections[key] = writer.add_connection(CAMERAS[camera], key[1], typestore=typestore())
            writer.write(connections[key], START + ms * MS, encode(message))


def read_bag(path: Path) -> Heard:
    """What a subscriber of the node's topics would have heard."""
    from rosbags.highlevel import AnyReader

    heard, infos = Heard(), {}
    with AnyReader([path]) as reader:
        for connection, _, raw in reader.messages():
            hear(heard, infos, connection.topic, reader.deserialize(raw, connection.msgtype))
    return heard


def hear(heard: Heard, infos: dict, topic: str, message) -> None:
    """Note one message; `infos` keeps the names of the classes until the network's own name comes."""
    match topic.split("/")[1:]:
        case ["vision", "label_info"]:
            infos["classes"] = tuple(c.class_name for c in message.class_map)
            assert [c.class_id for c in message.class_map] == list(range(len(message.class_map)))
        case ["vision", "vision_info"]:
            heard.announcement(message.method, message.database_version, infos["classes"])
            assert message.database_location == "/vision/label_info"
        case ["vision", camera, "detections"]:
            heard.result(camera, _header(message), [_row(d) for d in message.detections])
        case ["vision", camera, "mask"]:
            assert message.encoding == "mono8"
            mask = np.asarray(message.data).reshape(message.height, message.width)
            heard.result(camera, _header(message), mask)
        case ["diagnostics"]:
            heard.statuses |= {
                s.name.removeprefix("vision: "): (_octet(s.level), s.message, {v.key: v.value for v in s.values})
                for s in message.status
            }


def wire(script, settings, load, folder: Path) -> Heard:
    """Two foreign participants: cameras, and a listener, each with sockets of its own on the loopback."""
    pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install avcompress[wire]")
    there = load_wire_rig()  # noqa: F821 (conftest.py sets it: modules of tests are not importable by name)
    from ros_nodes.wire.serving import node_on_wire
    from ros_nodes.wiring import Wiring

    now, network = START, there.lonely()
    are_files = {camera for _, camera, frame in script if isinstance(frame, CompressedImage)}
    topics = {c: CAMERAS[c] + ("/compressed" if c in are_files else "") for c in settings.cameras}
    wiring = Wiring(node="vision", topics=topics, camera_qos=there.ROOMY, result_qos=there.ROOMY)
    clock = Clock(lambda: now, lambda: now)
    with node_on_wire(settings, wiring, network, clock, load) as (node, _):
        node.transition("configure")
        node.transition("activate")
        listener = there.Listener(network, there.node_topics(settings.cameras)).await_results(settings.cameras)
        cameras = {c: there.Camera(topic, network).await_listener() for c, topic in topics.items()}
        for ms, camera, frame in script:
            now, received = START + ms * MS, node.counts[camera].received
            cameras[camera].send(there.as_file(frame) if camera in are_files else frame)
            there.until(lambda c=camera, r=received: node.counts[c].received > r, f"a frame of {camera}")
            node.step()
        node.report()
        expected = sum(counts.published for counts in node.counts.values())
        there.until(lambda: len(listener.heard) >= expected + 3, "every result, two announcements, a diagnosis")
        counts = node.counts
    listener.close()
    heard, infos = Heard(counts=counts), {}
    # Of two topics nobody promises which one's history comes first.
    for topic, message in sorted(listener.heard, key=lambda one: one[0] != "/vision/label_info"):
        hear(heard, infos, topic, message)
    assert not listener.errors
    return heard


def _octet(level):
    return level[0] if isinstance(level, bytes) else level


def _header(message):
    return Header(message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id)


def _row(one):
    center, width, height = one.bbox.center.position, one.bbox.size_x, one.bbox.size_y
    box = (center.x - width / 2, center.y - height / 2, center.x + width / 2, center.y + height / 2)
    (result,) = one.results
    return (*box, float(np.float32(result.hypothesis.score)), int(result.hypothesis.class_id))


RIGS = {"in process": in_process, "mcap": bag("mcap"), "sqlite3": bag("sqlite3"), "wire": wire, "rclpy": rclpy_node}
