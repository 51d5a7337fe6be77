"""What `ros2 launch` does with the launch files, as a user sees it: on a ROS 2 with the package built by colcon."""

import os
import shutil
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.ros


@pytest.fixture
def launched(tmp_path):
    """Start a launch file in a domain of its own; skipped where the package is not built and sourced."""
    if shutil.which("ros2") is None:
        pytest.skip("needs the command ros2")
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        packages.get_package_share_directory("avcompress_ros")
    except packages.PackageNotFoundError:
        pytest.skip("needs avcompress_ros: colcon build, and source install/setup.bash")
    started = []
    environment = {**os.environ, "ROS_DOMAIN_ID": str(1 + (os.getpid() + 50) % 100), "ROS_LOG_DIR": str(tmp_path)}

    def start(*arguments):
        command = ["ros2", "launch", "avcompress_ros", *arguments]
        started.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return lambda *ask: _ask(environment, *ask)

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


def _ask(environment, *command):
    done = subprocess.run(["ros2", *command], env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def _until(ask, command, expected):
    end = time.monotonic() + 60
    while expected not in (answer := ask(*command)):
        assert time.monotonic() < end, answer


ONCE = ("--no-daemon", "--spin-time", "3")


def test_one_camera_is_served_at_once_and_lifecycle_and_parameters_answer(launched, signed_bundle):
    ask = launched("one_camera.launch.py", f"bundle:={signed_bundle.folder}", f"key:={signed_bundle.key}")
    _until(ask, ("lifecycle", "get", "/avcompress", *ONCE), "active [3]")
    assert "/avcompress/camera/mask" in ask("topic", "list", *ONCE)
    assert "failed: nowhere/manifest.json" in ask("param", "set", "/avcompress", "bundle", "nowhere", *ONCE)
    _until(ask, ("lifecycle", "set", "/avcompress", "deactivate", *ONCE), "Transitioning successful")
    assert "inactive [2]" in ask("lifecycle", "get", "/avcompress", *ONCE)


def test_an_unsigned_bundle_is_not_served(launched, signed_bundle):
    (signed_bundle.folder / "manifest.sig").unlink()
    ask = launched("one_camera.launch.py", f"bundle:={signed_bundle.folder}", f"key:={signed_bundle.key}")
    _until(ask, ("lifecycle", "get", "/avcompress", *ONCE), "unconfigured [1]")


def test_detector_and_segmenter_are_two_nodes(launched):
    ask = launched("detector_and_segmenter.launch.py", "autostart:=false")
    for name in ("detector", "segmenter"):
        _until(ask, ("lifecycle", "get", f"/{name}", *ONCE), "unconfigured [1]")


def test_cameras_of_one_node_are_its_parameters(launched):
    ask = launched("cameras.launch.py", "autostart:=false", "cameras:=front,left")
    _until(ask, ("param", "get", "/avcompress", "cameras", *ONCE), "['front', 'left']")
    _until(ask, ("param", "get", "/avcompress", "image_topics", *ONCE), "['/front/image_raw', '/left/image_raw']")


@pytest.mark.parametrize("name", ["bag", "cameras", "detector_and_segmenter", "one_camera"])
@pytest.mark.usefixtures("launched")
def test_every_launch_file_says_what_it_takes(name):
    said = subprocess.run(
        ["ros2", "launch", "avcompress_ros", f"{name}.launch.py", "--show-args"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'autostart':" in said.stdout
