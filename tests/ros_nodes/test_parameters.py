"""Parameters of a node: what ROS is told of each, and what their values say."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from avcompress.spec import RecipeError
from ros_nodes.connection import image_topics
from ros_nodes.core.settings import Settings
from ros_nodes.parameter_files import as_yaml, read
from ros_nodes.parameters import check, parameters, refusal, told
from ros_nodes.qos import CAMERA, RESULT

DEFAULTS = {parameter.name: parameter.default for parameter in parameters()}
BY_NAME = {parameter.name: parameter for parameter in parameters()}


def test_every_setting_is_a_parameter_that_says_what_it_is():
    assert set(Settings.model_fields) <= set(BY_NAME)
    assert all(parameter.description for parameter in parameters())
    assert len(BY_NAME) == len(parameters())


def test_defaults_are_those_of_the_models():
    found = told({**DEFAULTS, "bundle": "yolox.bundle"})
    assert found.settings == Settings(bundle="yolox.bundle")
    assert (found.connection.camera_qos, found.connection.result_qos) == (CAMERA, RESULT)


def test_what_is_empty_is_not_given():
    found = told({**DEFAULTS, "bundle": "b", "fallback": "", "deadline_ms": 0.0, "max_batch": 0, "keys": [""]}).settings
    assert (found.fallback, found.deadline_ms, found.max_batch, found.keys) == (None, None, None, ())


def test_what_is_given_arrives():
    values = {"bundle": "b", "deadline_ms": 33.0, "keys": ["a.pub", ""], "camera_qos.deadline_ms": 50.0}
    found = told({**DEFAULTS, **values})
    assert (found.settings.deadline_ms, found.settings.keys) == (33.0, ("a.pub",))
    assert found.connection.camera_qos == CAMERA.model_copy(update={"deadline_ms": 50.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bundle": ""}, "bundle: expected a value, got none; set the parameter"),
        ({"return_share": 1.5}, "return_share: expected less than or equal to 1, got 1.5; mend it"),
        ({"cameras": ["front", "front"]}, "cameras: expected names that differ, got front, front; name each once"),
        ({"cameras": ["0"]}, "cameras: expected a name of letters, digits and underscores that begins with a letter"),
        ({"cameras": "front"}, "cameras: expected a list, got 'front'; mend it"),
        ({"image_topics": ["/a", "/b"]}, "image_topics: expected 1, one a camera, got 2"),
        (
            {"camera_qos.reliability": "sometimes"},
            "camera_qos.reliability: expected 'best_effort' or 'reliable', got 'sometimes'; mend it",
        ),
        ({"batch_window_ms": 200.0}, "batch_window_ms: expected less than max_age_ms, 200, got 200; lower"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_that_names_it(values, message):
    with pytest.raises(RecipeError) as caught:
        told({**DEFAULTS, "bundle": "b", **values})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_bundle_may_be_named_later_but_nothing_wrong_may_be_said():
    check(DEFAULTS)
    with pytest.raises(RecipeError):
        check({**DEFAULTS, "max_age_ms": 0.0})


@given(st.data())
def test_a_number_within_its_range_is_taken_but_for_zeros_that_stand_for_nothing(data):
    numbers = [parameter for parameter in parameters() if parameter.range]
    parameter = data.draw(st.sampled_from(numbers))
    low, high = parameter.range
    kind = st.integers if parameter.kind == "integer" else st.floats
    value = data.draw(kind(min_value=low if parameter.kind == "integer" else 1e-3, max_value=high))
    assume(parameter.name != "batch_window_ms" or value < DEFAULTS["max_age_ms"])
    check({**DEFAULTS, parameter.name: value})


def test_a_number_outside_of_its_range_is_refused_by_the_model_too():
    for parameter in parameters():
        if parameter.range and not parameter.optional:
            low, _ = parameter.range
            with pytest.raises(RecipeError):
                check({**DEFAULTS, parameter.name: low - 1})


def test_only_the_bundle_changes_while_a_node_is_configured():
    assert refusal("bundle", configured=True) == ""
    assert refusal("max_age_ms", configured=False) == ""
    assert refusal("max_age_ms", configured=True).startswith("max_age_ms: expected a node that is not configured")


def test_nobody_changes_over_the_network_whom_a_node_trusts():
    assert {p.name for p in parameters() if p.read_only} >= {"keys", "allow_unsigned", "bundle_name", "min_revision"}
    assert not BY_NAME["bundle"].read_only


def test_images_come_on_the_node_s_own_topics_unless_others_are_named():
    connection = told({**DEFAULTS, "bundle": "b"}).connection
    assert image_topics(connection, "perception/vision", ("front",)) == {"front": "/perception/vision/front/image"}
    connection = told(
        {**DEFAULTS, "bundle": "b", "cameras": ["l", "r"], "image_topics": ["/x", "/y/compressed"]}
    ).connection
    assert image_topics(connection, "n", ("l", "r")) == {"l": "/x", "r": "/y/compressed"}


# --- files


def test_a_file_is_read_as_ros_reads_it_the_node_s_own_section_last(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(as_yaml())
    assert read(file, "vision") == DEFAULTS
    file.write_text(
        "/**: {ros__parameters: {max_age_ms: 1.0, camera_qos: {depth: 5}, camera_qos.deadline_ms: 3.0}}\n"
        "vision: {ros__parameters: {max_age_ms: 2.0}}\n"
        "other: {ros__parameters: {max_age_ms: 9.0}}\n"
    )
    assert read(file, "vision") == {"max_age_ms": 2.0, "camera_qos.depth": 5, "camera_qos.deadline_ms": 3.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "expected a parameter file, got: while parsing"),
        ("- a", "expected /\\*\\*: ros__parameters:"),
        ("/**: {max_age_ms: 1.0}\n/vision: 3", "expected /\\*\\*: ros__parameters:"),
        ("/**: {ros__parameters: {max_age: 1.0}}", "expected parameters of a node without ROS, got max_age;"),
        ("/**: {ros__parameters: {use_sim_time: true}}", "got use_sim_time;"),
        (
            "/**: {ros__parameters: {camera_qos: 5}}",
            "p.yaml: camera_qos: expected a mapping of reliability, .*depth, .*, got 5; write camera_qos: {",
        ),
    ],
)
def test_what_is_no_such_file_is_told_in_one_line(tmp_path, text, message):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        read(file, "vision")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told_in_one_line(tmp_path):
    with pytest.raises(RecipeError, match="expected a parameter file, got"):
        read(tmp_path / "none", "vision")
