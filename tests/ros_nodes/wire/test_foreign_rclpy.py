"""A genuine rclpy in another process: it sees the node, sends it images, and hears its masks and diagnostics."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from ros_nodes.core.threads import Threads

pytestmark = pytest.mark.ros

FOREIGN = """
    import array, json, time
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    rclpy.init()
    node, heard = rclpy.create_node("foreign"), {}
    told = lambda m: heard.update(diagnostics=[status.name for status in m.status])
    node.create_subscription(DiagnosticArray, "/diagnostics", told, 10)
    hear = lambda m: heard.update(mask=[m.height, m.width, m.encoding])
    node.create_subscription(Image, "/vision/front/mask", hear, 10)
    images = node.create_publisher(Image, "/front/image_raw", 10)
    end = time.monotonic() + 60
    while len(heard) < 2 and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.05)
        image = Image(height=48, width=96, encoding="rgb8", step=288, data=array.array("B", bytes(48 * 288)))
        image.header.stamp = node.get_clock().now().to_msg()
        images.publish(image)
    info = node.get_subscriptions_info_by_topic("/front/image_raw")[0]
    print(json.dumps({
        **heard,
        "nodes": node.get_node_names(),
        "services": [name for name, _ in node.get_service_names_and_types_by_node("vision", "/")],
        "subscriber": [info.node_name, info.topic_type, str(info.topic_type_hash)],
    }))
"""


def test_rclpy_sees_the_node_and_its_type_hashes_sends_images_and_hears_masks(wire_rig, bench, segmenter):
    pytest.importorskip("rclpy", reason="needs rclpy")
    from ros_nodes.wire.serving import node_on_wire
    from ros_nodes.wire.settings import Network
    from ros_nodes.wiring import Wiring

    network = Network(interface="lo", domain=100 + os.getpid() % 100)  # Fast DDS knows no tags of Cyclone
    b = bench(max_age_ms=60_000)
    b.engines["main"] = segmenter()
    wiring = Wiring(node="vision", topics={"front": "/front/image_raw"})
    with node_on_wire(b.settings, wiring, network, load=b.load) as (node, _), Threads(node):
        node.transition("configure")
        node.transition("activate")
        own = {"ROS_DOMAIN_ID": str(network.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        command = [sys.executable, "-c", textwrap.dedent(FOREIGN)]
        told = subprocess.run(
            command, env={**os.environ, **own}, capture_output=True, text=True, timeout=120, check=True
        )
    seen = json.loads(told.stdout.splitlines()[-1])
    assert seen["mask"] == [48, 96, "mono8"]
    said = ("processing", "engine", "drift", "camera front", "transport")
    assert seen["diagnostics"] == [f"vision: {name}" for name in said]
    assert "vision" in seen["nodes"]
    assert set(seen["services"]) >= {"/vision/change_state", "/vision/get_state", "/vision/get_transition_graph"}
    assert seen["subscriber"] == [
        "vision",
        "sensor_msgs/msg/Image",
        "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47",
    ]
