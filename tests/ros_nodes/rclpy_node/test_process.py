"""The node as a process of its own, with a bundle from the disk, as `ros2 run` and systemd start it."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from calibration.frame import Header, RawImage

pytestmark = pytest.mark.ros


@pytest.fixture
def started(world, signed_bundle):
    """A process, and a foreign node in its domain."""
    with world(name="avcompress") as foreign:
        domain = str(foreign.context.get_domain_id())
        arguments = {"bundle": signed_bundle.folder, "keys": f"['{signed_bundle.key}']", "autostart": "true"}
        given = [part for name, value in arguments.items() for part in ("-p", f"{name}:={value}")]
        command = [sys.executable, "-m", "ros_nodes.rclpy_node", "--ros-args", *given]
        process = subprocess.Popen(command, env={**os.environ, "ROS_DOMAIN_ID": domain})
        yield process, foreign
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_serves_a_camera_and_ends_in_order(started, number):
    process, foreign = started
    until = sys.modules["ros_world"].until
    until(lambda: foreign.state == "active", "autostart", 60)
    heard = foreign.listen("/avcompress/camera/mask", "sensor_msgs/msg/Image")
    pixels = np.full((48, 96, 3), (10, 20, 200), np.uint8)

    def served():
        # Images age by their stamps: a busy machine drops the first ones.
        now = foreign.foreign.get_clock().now().to_msg()
        header = Header(now.sec, now.nanosec, "optical")
        foreign.send("/avcompress/camera/image", RawImage(header, 48, 96, "rgb8", 288, pixels.reshape(-1)))
        return bool(heard)

    until(served, "a mask", 30)
    assert set(heard[0].data) == {2}
    assert heard[0].header.frame_id == "optical"
    process.send_signal(number)
    assert process.wait(20) == 0
