"""The command that serves a bundle on the wire, in a process of its own, with foreign nodes around it."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from avcompress.recipe import OrtEngine
from calibration.frame import Header, RawImage

pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install avcompress[wire]")
ENGINE = OrtEngine(backend="ort", threads=1)


@pytest.fixture(scope="module")
def rig():
    spec = importlib.util.spec_from_file_location("wire_rig", Path(__file__).parents[1] / "ros_nodes" / "wire_rig.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, brightest_bundle):
    return brightest_bundle(tmp_path_factory.mktemp("bundles") / "brightest")


class Process:
    """avcompress serve, on a network of the test's own."""

    def __init__(self, rig, *options, camera="front=/front/image_raw"):
        self.rig, self.network = rig, rig.lonely()
        self.out = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        own = f"<CycloneDDS><Domain><Discovery><Tag>{self.network.tag}</Tag></Discovery></Domain></CycloneDDS>"
        command = [sys.executable, "-m", "avcompress", "serve"]
        command += ["--camera", camera] if camera else []
        network = ["--interface", "lo", "--domain", str(self.network.domain), "--node", "vision"]
        self.process = subprocess.Popen(
            [*command, *network, *map(str, options)],
            stdout=self.out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CYCLONEDDS_URI": own},
        )
        self.listener = rig.Listener(self.network, rig.node_topics(("front",)))
        self.client = rig.Client(self.network, "change_state", "ChangeState")

    def status(self, name, level):
        def found():
            assert self.process.poll() is None, self.text()
            status = self.listener.statuses().get(name)
            return status if status and status[0] == level else None

        return self.rig.until(found, f"{name} at {level}", 60)

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(60), self.text()

    def text(self):
        self.out.seek(0)
        return self.out.read().decode()

    def said(self, text):
        return self.rig.until(lambda: text in self.text(), text, 60)

    def close(self):
        self.listener.close()
        self.client.close()
        self.process.kill()
        self.process.wait()
        self.out.close()


@pytest.fixture
def start(rig):
    made = []

    def run(*arguments, **said):
        made.append(Process(rig, *arguments, **said))
        return made[-1]

    yield run
    for process in made:
        process.close()


def green(stamp_s):
    pixels = np.tile(np.array([0, 200, 0], np.uint8), 20 * 30)
    return RawImage(Header(stamp_s, 5, "front_optical"), 20, 30, "rgb8", 90, pixels)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_camera_s_images_come_back_as_masks_until_a_signal_shuts_the_node_down(start, rig, bundle, number):
    served = start(bundle, "--allow-unsigned", "--autostart", "--age-from", "arrival", "--reliable")
    served.listener.await_results(("front",))
    camera = rig.Camera("/front/image_raw", served.network).await_listener()
    camera.send(green(7))
    (mask, *_) = rig.until(lambda: served.listener.on("/vision/front/mask"), "a mask")
    assert (mask.header.stamp.sec, mask.header.stamp.nanosec, mask.header.frame_id) == (7, 5, "front_optical")
    np.testing.assert_array_equal(mask.data, np.ones(20 * 30, np.uint8))
    (labels, *_) = rig.until(lambda: served.listener.on("/vision/label_info"), "the names")
    assert [one.class_name for one in labels.class_map] == ["red", "green", "blue"]
    code, out = served.stop(number)
    assert code == 0
    states = [line.removeprefix("vision: ") for line in out.splitlines() if line.startswith("vision: ")]
    assert states == ["inactive", "active", "inactive", "unconfigured", "finalized"]
    assert "front: 1 received, 1 published, 0 dropped" in out


def test_a_bundle_that_nobody_vouches_for_is_refused_and_the_process_stays_to_be_asked_again(start, bundle):
    served = start(bundle, "--autostart")
    _, message, values = served.status("engine", 2)
    assert "expected" in message
    assert values["lifecycle"] == "unconfigured"
    assert not served.client.change("configure")
    code, out = served.stop(signal.SIGTERM)
    assert (code, "vision: unconfigured: " in out) == (0, True)


def test_without_autostart_the_node_waits_for_its_manager(start, bundle):
    served = start(bundle, "--allow-unsigned", "--quiet")
    served.status("engine", 0)
    assert served.client.change("configure")
    assert served.client.change("activate")
    served.listener.await_results(("front",))
    assert served.stop(signal.SIGTERM)[0] == 0


PARAMETERS = """\
/**:
  ros__parameters:
    bundle: BUNDLE
    allow_unsigned: true
    autostart: true
    cameras: ["front"]
    image_topics: ["/front/image_raw"]
    max_age_ms: 60000.0
    report_every_ms: 50.0
    camera_qos: {reliability: "reliable"}
vision:
  ros__parameters:
    age_from: "arrival"
"""


def test_a_parameter_file_says_all_and_a_hang_up_swaps_in_the_bundle_that_it_names_then(
    start, rig, bundle, tmp_path, brightest_bundle
):
    file, newer = tmp_path / "vehicle.yaml", brightest_bundle(tmp_path / "newer", revision=2)
    file.write_text(PARAMETERS.replace("BUNDLE", str(bundle)))
    served = start("--params", file, camera=None)
    served.listener.await_results(("front",))
    camera = rig.Camera("/front/image_raw", served.network).await_listener()
    camera.send(green(7))  # of 1970: it ages from its arrival, as the node's own section says
    rig.until(lambda: served.listener.on("/vision/front/mask"), "a mask")
    file.write_text(PARAMETERS.replace("BUNDLE", str(newer)))
    served.process.send_signal(signal.SIGHUP)
    rig.until(lambda: "revision 2" in served.status("engine", 0)[2]["active_engine"], "the swap", 60)
    assert served.said("vision: swap: ")
    file.write_text(PARAMETERS.replace("BUNDLE", str(bundle)).replace("60000.0", "50.0"))
    served.process.send_signal(signal.SIGHUP)
    assert served.said("not swapped: max_age_ms")
    file.write_text(PARAMETERS)
    served.process.send_signal(signal.SIGHUP)
    assert served.said("not swapped: BUNDLE")
    code, out = served.stop(signal.SIGTERM)
    assert code == 0
    assert len([line for line in out.splitlines() if line.startswith("vision: swap: brightest revision 2")]) == 1
    assert "vision: not swapped: max_age_ms: expected what it was at the start" in out
    assert "vision: not swapped: BUNDLE/manifest.json: expected" in out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--peer", "no.such.invalid"], 3, "error: peer no.such.invalid: expected a name that this machine knows"),
        (["--peer", "127.0.0.1:99999"], 2, "error: --peer: expected an IPv4 address or a name, and perhaps a port"),
        (["--interface", ""], 2, "error: --interface: expected the name of a network interface, got ''; `ip link`"),
    ],
)
def test_what_cyclone_would_end_the_process_for_is_one_line(bundle, options, code, message):
    command = [sys.executable, "-m", "avcompress", "serve", str(bundle), "--camera", "front=/a", *options]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode, found.stderr.count("\n")) == (code, 1), found.stderr
    assert found.stderr.startswith(message)


def test_without_a_camera_nothing_is_served(bundle):
    command = [sys.executable, "-m", "avcompress", "serve", str(bundle)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("error: --camera: expected NAME=/TOPIC, or `cameras` in --params, got neither")


def test_without_a_bundle_nothing_is_served():
    command = [sys.executable, "-m", "avcompress", "serve", "--camera", "front=/a"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 2
    assert found.stderr == (
        "error: BUNDLE: expected its folder, or `bundle` in --params, got neither; name the bundle to serve\n"
    )


@pytest.mark.parametrize("camera", ["front", "front=image", "front=/a/", "front=/a b"])
def test_what_is_no_camera_is_bad_usage(bundle, camera):
    command = [sys.executable, "-m", "avcompress", "serve", str(bundle), "--camera", camera]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("error: --camera: expected ")
    assert found.stderr.count("\n") == 1
