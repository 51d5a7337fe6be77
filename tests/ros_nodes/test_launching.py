"""What launch files tell their nodes, with the least of `launch` that they use in its place."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ros_nodes" / "ros_package"
NAMES = ("bag", "cameras", "detector_and_segmenter", "one_camera")


class Thing:
    """Keeps what it was made of."""

    def __init__(self, *args, **said):
        self.args, self.said = args, said


@pytest.fixture
def nodes(monkeypatch):
    """The nodes of a launch file by their names, and all its arguments: (file's name, what the user says) -> both."""
    for name in (
        "launch",
        "launch.actions",
        "launch.event_handlers",
        "launch_ros.actions",
        "launch_ros.ros_adapters",
        "lifecycle_msgs.msg",
        "lifecycle_msgs.srv",
    ):
        made = ModuleType(name)
        made.__getattr__ = lambda _: Thing
        monkeypatch.setitem(sys.modules, name, made)
    index = ModuleType("ament_index_python.packages")
    index.get_package_share_directory = lambda _: str(PACKAGE)
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", index)
    for name in ("avcompress_ros", "avcompress_ros.launching"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(PACKAGE))

    def run(name, **said):
        spec = importlib.util.spec_from_file_location(name, PACKAGE / "launch" / f"{name}.launch.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        (whole,) = module.generate_launch_description().args
        arguments = {one.args[0]: one.said["default_value"] for one in whole if one.args}
        assert set(said) <= set(arguments)
        found = module.nodes(SimpleNamespace(launch_configurations={**arguments, **said}))
        return {one.said["name"]: one.said["parameters"] for one in found if "parameters" in one.said}, arguments

    yield run
    for name in ("avcompress_ros", "avcompress_ros.launching"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_nobody_gave_say_nothing_to_a_node(nodes, name):
    found, _ = nodes(name)
    for parameters in found.values():
        given = [one for one in parameters if isinstance(one, dict)]
        assert given == ([{"use_sim_time": True}] if name == "bag" else [])


@pytest.mark.parametrize("name", NAMES)
def test_the_user_s_file_goes_before_the_package_s_and_arguments_before_that(nodes, name):
    found, _ = nodes(name, params_file="own.yaml", allow_unsigned="false", autostart="true", key="a.pub,b.pub")
    for package, launch_file, own, given in found.values():
        assert Path(package).is_file()
        assert Path(launch_file).is_file()
        assert own == "own.yaml"
        given.pop("use_sim_time", None)
        assert given == {"allow_unsigned": False, "autostart": True, "keys": ["a.pub", "b.pub"]}


def test_cameras_that_are_named_have_topics_of_their_names(nodes):
    ((*_, given),) = nodes("cameras", cameras="front, rear", batch_window_ms="3")[0].values()
    assert given == {
        "cameras": ["front", "rear"],
        "image_topics": ["/front/image_raw", "/rear/image_raw"],
        "batch_window_ms": 3.0,
    }


def test_each_of_two_nodes_has_a_bundle_and_a_fallback_of_its_own(nodes):
    found, arguments = nodes("detector_and_segmenter", detector="d", detector_fallback="small", segmenter="s")
    assert found["detector"][-1] == {"bundle": "d", "fallback": "small"}
    assert found["segmenter"][-1] == {"bundle": "s"}
    assert not {"bundle", "fallback"} & set(arguments)


class Answering:
    """A client of `get_state`; says what the test has set, nothing at all while that is None."""

    state = None

    def service_is_ready(self):
        return self.state != "not there"

    def call_async(self, _):
        answer = SimpleNamespace(current_state=SimpleNamespace(id=self.state))
        return SimpleNamespace(add_done_callback=lambda do: self.state and do(SimpleNamespace(result=lambda: answer)))


def test_a_drive_waits_until_its_node_says_that_it_is_active_and_an_answer_that_is_lost_is_asked_for_again(
    nodes, monkeypatch
):
    nodes("bag")
    launching, client, made = sys.modules["avcompress_ros.launching"], Answering(), []
    ros_node = SimpleNamespace(create_client=lambda _, service: made.append(service) or client)
    monkeypatch.setattr(launching, "get_ros_node", lambda _: ros_node)
    monkeypatch.setattr(launching, "State", SimpleNamespace(PRIMARY_STATE_ACTIVE=3))
    monkeypatch.setattr(launching, "GetState", SimpleNamespace(Request=dict))
    look = launching.when_active(SimpleNamespace(node_name="/vision"), "play").said["function"]
    for client.state in ("not there", 1, None, 2, 3):
        (timer,) = look(None)
        (again,) = timer.said["actions"]
        look = again.said["function"]
    assert look(None) == ["play"]
    assert made == ["/vision/get_state"]
