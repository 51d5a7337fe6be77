"""What goes wrong around a node ends in the diagnostic that names it, heard by a foreign node, with the node alive."""

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from avcompress.spec import EngineError
from calibration.frame import CompressedImage
from ros_nodes.core.lifecycle import State
from ros_nodes.qos import Qos
from ros_nodes.wiring import Wiring


def served(node, camera, picture, count=1):
    """Send images until results of so many have come: the node lives."""
    before = node.node.counts["front"].published
    for _ in range(count):
        received = node.node.counts["front"].received
        camera.send(picture())
        node.rig.until(lambda r=received: node.node.counts["front"].received > r, "the image")
        node.rig.until(lambda: node.node.pending == 0, "its end")
    assert node.node.counts["front"].published == before + count


def test_an_image_comes_back_as_boxes_under_its_own_header(on_wire, picture):
    node = on_wire()
    sent = picture()
    node.camera().send(sent)
    (found,) = node.results(1)
    stamp = found.header.stamp
    assert (stamp.sec, stamp.nanosec, found.header.frame_id) == (sent.header.sec, sent.header.nanosec, "front_optical")
    assert found.detections[0].results[0].hypothesis.class_id == "0"


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "32FC1", ""])
def test_a_wrong_encoding(on_wire, picture, encoding):
    node = on_wire()
    camera = node.camera()
    camera.send(picture(encoding=encoding))
    status = node.status("camera front", lambda status: status.level == 2)
    assert status.message.startswith("rejected: image: expected one of rgb8")
    served(node, camera, picture)


def test_a_corrupt_image(on_wire, picture):
    node = on_wire(topic="/front/image_raw/compressed")
    camera, now = node.camera(), picture().header
    camera.send(CompressedImage(now, "jpeg", np.arange(99, dtype=np.uint8)))
    assert node.status("camera front", lambda status: status.level == 2).message.startswith("rejected: image: ")
    served(node, camera, lambda: node.rig.as_file(picture()))


def test_a_resized_camera(on_wire, picture):
    node = on_wire()
    camera = node.camera()
    served(node, camera, picture)
    served(node, camera, lambda: picture(height=24, width=40))
    status = node.status("camera front", lambda status: status.message.startswith("resized"))
    values = {v.key: v.value for v in status.values}
    assert (status.level, values["size"], values["resizes"]) == (1, "40x24", "1")


@pytest.mark.parametrize("data", [b"", b"\0\1\0\0", b"\0\7\0\0" + bytes(60), b"\0\1\0\0" + b"\xff" * 60])
def test_bytes_that_are_no_image_at_all(on_wire, picture, data):
    """Cyclone lets no writer of its own send them: as if they came from another one."""
    node = on_wire()
    (reader,) = node.port._readers
    hear = node.port._ear._readers[reader]
    node.port._ear._hand_on(reader, hear, data)
    status = node.status("transport", lambda status: status.level == 1)
    assert status.message.startswith("/front/image_raw unreadable image: expected a sensor_msgs/msg/Image, got: ")
    served(node, node.camera(), picture)


def test_a_bundle_with_a_bad_signature(on_wire, picture):
    node = on_wire()
    load = node.bench.load

    def refuse(folder, *rest):
        if folder.name == "forged":
            raise EngineError("forged: expected a signature by one of 1 keys, got another one; sign it")
        return load(folder, *rest)

    node.node._load = refuse
    with pytest.raises(EngineError):
        node.node.swap(Path("forged"))
    status = node.status("engine", lambda status: status.level == 1)
    assert "forged: expected a signature" in status.message
    served(node, node.camera(), picture)


def test_an_engine_that_hangs(on_wire, picture):
    node, over = on_wire(hang_ms=100, deadline_ms=50), threading.Event()
    run = node.bench.engines["main"].run
    node.bench.engines["main"].run = lambda inputs: run(inputs) if over.wait(60) else {}
    camera = node.camera()
    known = camera.listeners()
    camera.send(picture())
    status = node.status("engine", lambda status: status.level == 2)
    assert "hangs: no answer for" in status.message
    over.set()
    assert node.node.state == State.INACTIVE
    for name in ("cleanup", "configure", "activate"):
        assert node.node.transition(name).outcome == "success"
    camera.await_listener(beside=known)
    served(node, camera, picture)


CAMERA = """
    import sys, time
    import numpy as np
    from ros_nodes.bag.library import RosbagsLibrary, encode
    from ros_nodes.messages.outgoing import header_message
    from ros_nodes.qos import Qos
    from ros_nodes.wire.participant import Participant
    from ros_nodes.wire.settings import Network
    from calibration.frame import Header

    network = Network.model_validate_json(sys.argv[1])
    participant = Participant("camera", network)
    writer = participant.writer("rt/front/image_raw", "sensor_msgs/msg/Image", Qos(reliability="reliable"))
    library = RosbagsLibrary()
    while True:
        now = time.time_ns()
        header = header_message(Header(now // 10**9, now % 10**9, "front"), library)
        writer.write(encode(library.make(
            "sensor_msgs/msg/Image", header=header, height=48, width=96, encoding="rgb8", is_bigendian=0, step=288,
            data=np.full(48 * 288, 99, np.uint8),
        )))
        time.sleep(0.03)
"""


def test_a_camera_in_another_process_is_killed_and_comes_back(on_wire):
    node = on_wire(camera_timeout_ms=500)
    command = [sys.executable, "-c", textwrap.dedent(CAMERA), node.network.model_dump_json()]
    for _ in range(2):
        camera = subprocess.Popen(command)
        try:
            node.results(3)
            camera.send_signal(signal.SIGKILL)
        finally:
            camera.kill()
            camera.wait()
        status = node.status("camera front", lambda status: status.level == 2)
        assert status.message.startswith("waiting: no image for")
        node.listener.heard.clear()
    assert node.node.state == State.ACTIVE
    assert sum(counts.pending for counts in node.node.counts.values()) == node.node.pending


def test_a_camera_that_offers_less_than_is_wanted_is_told_until_it_leaves(on_wire, picture):
    wiring = Wiring(node="vision", topics={"front": "/front/image_raw"}, camera_qos=Qos(reliability="reliable"))
    node = on_wire(wiring=wiring)
    camera = node.rig.Camera(node.topic, node.network, Qos())
    status = node.status("transport", lambda status: status.level == 1)
    assert status.message == f"{camera.topic} incompatible_qos (a publisher offers less: reliability)"
    good = node.camera()
    lasts_as_long_as(node, camera.participant)
    served(node, good, picture)


def lasts_as_long_as(node, participant):
    """The warning of the transport is there until that participant has left; the count stays."""
    node.listener.heard.clear()
    node.rig.until(lambda: len(node.listener.on("/diagnostics")) > 5, "some more diagnostics")
    levels = [s.level for m in node.listener.on("/diagnostics") for s in m.status if s.name == "vision: transport"]
    assert set(levels) == {1}
    participant.close()
    status = node.status("transport", lambda status: status.level == 0)
    assert {v.key.rpartition(" ")[2]: v.value for v in status.values} == {"incompatible_qos": "1"}


def test_a_subscriber_that_wants_more_than_is_offered_is_told_until_it_leaves(on_wire, wire_rig):
    wiring = Wiring(node="vision", topics={"front": "/front/image_raw"}, result_qos=Qos())
    node = on_wire(wiring=wiring, activate=False)  # its listener wants reliable results
    node.activate()
    status = node.status("transport", lambda status: status.level == 1)
    assert status.message == "/vision/front/detections incompatible_qos (a subscriber wants more: reliability)"
    other = wire_rig.Listener(node.network, {"/diagnostics": wire_rig.node_topics(())["/diagnostics"]})
    node.listener.close()
    node.listener = other
    status = node.status("transport", lambda status: status.level == 0)
    assert {v.key: v.value for v in status.values}["/vision/front/detections incompatible_qos"] == "1"


def test_a_camera_that_breaks_the_deadline_it_promised(on_wire, picture):
    qos = Qos(deadline_ms=100)
    node = on_wire(wiring=Wiring(node="vision", topics={"front": "/front/image_raw"}, camera_qos=qos))
    camera = node.camera(qos)
    (reader,) = node.port._readers
    node.rig.until(reader.get_matched_publications, "the camera")  # or what is sent, best effort, is lost
    camera.send(picture())
    status = node.status("transport", lambda status: status.level == 1)
    assert status.message == f"{camera.topic} deadline_missed"
    assert {v.key: int(v.value) for v in status.values}["/front/image_raw deadline_missed"] >= 1


def test_results_are_sent_with_the_lifespan_that_is_set(on_wire):
    from cyclonedds.qos import Policy

    wiring = Wiring(node="vision", topics={"front": "/front/image_raw"}, result_qos=Qos(lifespan_ms=250))
    node = on_wire(wiring=wiring, activate=False)
    node.activate()
    writer = node.port._writers["/vision/front/detections"].dds
    assert writer.get_qos()[Policy.Lifespan].lifespan == 250_000_000


def test_what_is_sent_after_a_result_cannot_lose_it_nor_add_writers_while_the_watchdog_looks_at_them(
    on_wire, picture, monkeypatch
):
    node = on_wire()
    known, send = set(node.port._writers), node.port._send

    def refuse(topic, message, qos):
        if "/debug/" in topic:
            raise RuntimeError("debug failed")
        send(topic, message, qos)

    assert {"/vision/debug/processing_time_ms", "/vision/debug/pipeline_latency_ms"} <= known
    camera = node.camera()
    served(node, camera, picture)
    assert set(node.port._writers) == known
    monkeypatch.setattr(node.port, "_send", refuse)
    served(node, camera, picture)
    assert sum(node.node.counts["front"].dropped.values()) == 0

    def said(status):
        return {v.key: v.value for v in status.values}["last_transport_error"] == "debug failed"

    node.status("engine", said)


def test_a_node_that_cannot_wait_for_its_cameras_says_so_and_hears_them_all_the_same(on_wire, picture, monkeypatch):
    class Broken:
        def wait(self, _):
            raise RuntimeError("out of resources")

    node = on_wire()
    camera = node.camera()
    monkeypatch.setattr(node.port._ear, "_waiting", Broken())
    served(node, camera, picture, 2)
    status = node.status("transport", lambda status: status.level == 1)
    assert status.message == "cameras unreadable out of resources"
    assert node.node.transition("deactivate").outcome == "success"
