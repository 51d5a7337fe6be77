"""The package that colcon builds, and the files that are made of the parameters."""

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from ros_nodes.parameter_files import SCHEMA_NAME, YAML_NAME, as_schema, as_yaml
from ros_nodes.parameters import parameters, told

PACKAGE = Path(__file__).resolve().parents[2] / "ros_nodes" / "ros_package"
NAME = "avcompress_ros"
LAUNCH_FILES = sorted((PACKAGE / "launch").glob("*.launch.py"))
MANIFEST = ElementTree.parse(PACKAGE / "package.xml").getroot()  # noqa: S314 (our own file)


def flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize(("name", "made"), [(YAML_NAME, as_yaml), (SCHEMA_NAME, as_schema)])
def test_files_are_those_that_the_parameters_make(name, made):
    """After a change: `python -m ros_nodes.parameter_files ros_nodes/ros_package/config`."""
    assert (PACKAGE / "config" / name).read_text(encoding="utf-8") == made()


def test_the_yaml_says_every_default_in_its_own_type():
    read = yaml.safe_load(as_yaml())["/**"]["ros__parameters"]
    values = dict(flat(read))
    assert values == {parameter.name: parameter.default for parameter in parameters()}
    assert {name: type(value) for name, value in values.items()} == {p.name: type(p.default) for p in parameters()}
    told({**values, "bundle": "b"})


def test_the_schema_knows_every_parameter_and_no_other():
    schema = json.loads(as_schema())
    properties = schema["additionalProperties"]["properties"]["ros__parameters"]
    assert not properties["additionalProperties"]
    names = set()
    of_ros = {"use_sim_time", "qos_overrides"}
    assert of_ros <= set(properties["properties"])
    for name, one in properties["properties"].items():
        if name in of_ros:
            continue
        names |= {f"{name}.{inner}" for inner in one["properties"]} if one["type"] == "object" else {name}
    assert names == {parameter.name for parameter in parameters()}
    share = properties["properties"]["return_share"]
    assert (share["type"], share["minimum"], share["maximum"], share["default"]) == ("number", 0, 1, 0.8)


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ("use_sim_time: true", True),
        ("use_sim_time: 1", False),
        ("qos_overrides: {/front/image_raw: {subscription: {reliability: reliable, depth: 5}}}", True),
        ("qos_overrides: {/front/image_raw: {subscription: {reliability: relable}}}", False),
        ("qos_overrides: {/front/image_raw: {listener: {depth: 5}}}", False),
        ("qos_overrides./front/image_raw.subscription.reliability: reliable", True),
        ("camera_qos: {depth: 5}", True),
        ("camera_qos: {lifespan_ms: 5.0}", False),  # only publishers have one
        ("result_qos: {lifespan_ms: 5.0}", True),
        ("max_age: 5.0", False),
    ],
)
def test_the_schema_takes_what_a_node_of_ros_takes(said, is_right):
    jsonschema = pytest.importorskip("jsonschema")
    file = yaml.safe_load(f"/**:\n  ros__parameters:\n    {said}\n")
    assert jsonschema.Draft202012Validator(json.loads(as_schema())).is_valid(file) == is_right


def test_the_package_is_built_as_ament_python_under_one_name():
    assert MANIFEST.get("format") == "3"
    assert MANIFEST.findtext("name") == NAME
    assert MANIFEST.findtext("export/build_type") == "ament_python"
    assert MANIFEST.findtext("license") == "Apache-2.0"
    assert (PACKAGE / "resource" / NAME).is_file()
    setup = configparser.ConfigParser()
    setup.read(PACKAGE / "setup.cfg")
    assert setup["develop"]["script_dir"] == setup["install"]["install_scripts"] == f"$base/lib/{NAME}"


def test_a_build_installs_what_ros_looks_for(tmp_path):
    source = shutil.copytree(PACKAGE, tmp_path / "source")  # a build writes into the tree that it builds
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        (entry_points,) = [wheel.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    shared = {name.partition(".data/data/")[2] for name in names}
    assert f"node = {NAME}.node:main" in entry_points
    assert {f"share/ament_index/resource_index/packages/{NAME}", f"share/{NAME}/package.xml"} <= shared
    assert {f"share/{NAME}/launch/{path.name}" for path in LAUNCH_FILES} <= shared
    assert {f"share/{NAME}/config/{YAML_NAME}", f"share/{NAME}/config/{SCHEMA_NAME}"} <= shared
    assert {f"{NAME}/node.py", f"{NAME}/launching.py"} <= set(names)


def test_where_avcompress_is_not_installed_the_executable_says_how_to(tmp_path):
    command = [
        sys.executable,
        "-I",
        "-S",  # nothing that is installed, also as an editable
        "-c",
        f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); from avcompress_ros.node import main; sys.exit(main())",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("avcompress_ros: expected avcompress for")
    assert "Traceback" not in done.stderr


def test_every_message_that_the_node_uses_is_a_dependency():
    depends = {depend.text for depend in MANIFEST.findall("exec_depend")}
    sources = [*(PACKAGE.parent / "rclpy_node").glob("*.py"), *(PACKAGE.parent / "messages").glob("out*.py")]
    used = {found for path in sources for found in re.findall(r"\b(\w+_msgs|\w+_interfaces)[/.]msg", path.read_text())}
    assert used | {"rclpy", "launch_ros"} <= depends
    assert used >= {"vision_msgs", "sensor_msgs", "rcl_interfaces"}


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_a_launch_file_begins_with_the_command_that_starts_it(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert f"ros2 launch {NAME} {path.name}" in ast.get_docstring(tree)
    assert "generate_launch_description" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_there_is_a_launch_file_for_each_of_the_common_ways():
    assert [path.name.removesuffix(".launch.py") for path in LAUNCH_FILES] == [
        "bag",
        "cameras",
        "detector_and_segmenter",
        "one_camera",
    ]


def test_launch_files_name_only_parameters_that_there_are():
    names = {parameter.name for parameter in parameters()} | {"use_sim_time"}
    for path in LAUNCH_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "serving_node":
                assert {keyword.arg for keyword in node.keywords if keyword.arg} <= names, path.name
