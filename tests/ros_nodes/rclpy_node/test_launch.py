"""What `ros2 launch` does with the launch files, as a user sees it: on a ROS 2 with the package built by colcon."""

import os
import shutil
import signal
import subprocess
import time

import pytest
import yaml

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

    def start(*arguments, path=()):
        command = ["ros2", "launch", "avcompress_ros", *arguments]
        own = {**environment, "PATH": os.pathsep.join([*map(str, path), environment["PATH"]])}
        started.append(subprocess.Popen(command, env=own, start_new_session=True))
        return lambda *ask: _ask(environment, *ask)

    start.started = started
    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


def _ask(environment, *command):
    done = subprocess.run(["ros2", *command], env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def _until(ask, command, expected):
    end = time.monotonic() + 180
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


def test_a_parameter_file_goes_before_what_a_launch_file_begins_with_and_an_argument_before_both(launched, tmp_path):
    file = tmp_path / "own.yaml"
    said = {"cameras": ["left"], "image_topics": ["/left/x"], "autostart": False, "allow_unsigned": True}
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": said}}))
    ask = launched("one_camera.launch.py", f"params_file:={file}", "image:=/given")
    _until(ask, ("param", "get", "/avcompress", "cameras", *ONCE), "['left']")
    found = {name: ask("param", "get", "/avcompress", name, *ONCE) for name in said}
    assert "['/given']" in found["image_topics"]
    assert ("False" in found["autostart"], "True" in found["allow_unsigned"]) == (True, True)


def test_what_a_parameter_file_does_not_say_stays_what_the_launch_file_begins_with(launched, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("/**: {ros__parameters: {max_age_ms: 77.0}}")
    ask = launched("cameras.launch.py", f"params_file:={file}")
    _until(ask, ("param", "get", "/avcompress", "max_age_ms", *ONCE), "77.0")
    assert "['front', 'left', 'right']" in ask("param", "get", "/avcompress", "cameras", *ONCE)
    assert "5.0" in ask("param", "get", "/avcompress", "batch_window_ms", *ONCE)
    assert "True" in ask("param", "get", "/avcompress", "autostart", *ONCE)


def test_detector_and_segmenter_have_each_a_fallback_of_their_own(launched):
    given = ("detector:=d", "detector_fallback:=small", "segmenter:=s", "autostart:=false")
    ask = launched("detector_and_segmenter.launch.py", *given)
    _until(ask, ("param", "get", "/detector", "fallback", *ONCE), "small")
    _until(ask, ("param", "get", "/segmenter", "bundle", *ONCE), "value is: s")
    assert "small" not in ask("param", "get", "/segmenter", "fallback", *ONCE)


@pytest.mark.parametrize("who", ["the node itself", "a manager"])
def test_a_drive_begins_when_the_node_is_active_and_ends_the_launch(launched, signed_bundle, tmp_path, who):
    bin_, played = tmp_path / "bin", tmp_path / "played"
    bin_.mkdir()
    # In the place of rosbag2's player.
    (bin_ / "ros2").write_text(
        f'#!/bin/sh\n[ "$1 $2" = "bag play" ] && echo "$@" >{played} && exit\nexec {shutil.which("ros2")} "$@"\n'
    )
    (bin_ / "ros2").chmod(0o755)
    given = [f"bundle:={signed_bundle.folder}", f"key:={signed_bundle.key}", "bag:=drive"]
    leads = who == "a manager"
    ask = launched("bag.launch.py", *given, *(["autostart:=false"] if leads else []), path=[bin_])
    if leads:
        _until(ask, ("lifecycle", "set", "/avcompress", "configure", *ONCE), "Transitioning successful")
        assert not played.exists()
        _until(ask, ("lifecycle", "set", "/avcompress", "activate", *ONCE), "Transitioning successful")
    end = time.monotonic() + 180
    while not played.exists():
        assert time.monotonic() < end, "waited for the drive"
        time.sleep(0.1)
    assert played.read_text() == "bag play drive --clock --rate 1.0\n"
    assert launched.started[-1].wait(60) == 0


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
