import math
from datetime import datetime, timezone

from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.spec import Check
from validation.junit import junit_xml

CREATED = datetime(2027, 3, 4, 15, 9, tzinfo=timezone.utc)
CHECKS = (
    Check("AP @ ort", 0.29, ">=", 0.25, low=0.27, high=0.31),
    Check("AP drop @ ort", 0.04, "<=", 0.01, note="lost most: AP/person by 0.31"),
    Check("p99 @ openvino", math.nan, "<=", 8.0, "ms", note="not measured: this engine did not run here"),
)


def read(text):
    import junitparser

    (suite,) = junitparser.JUnitXml.fromstring(text.encode())
    return suite, {case.name: case for case in suite}


def test_every_check_is_a_case_that_passes_fails_or_could_not_be_measured():
    suite, cases = read(junit_xml("yolox <nano> & co", CHECKS, CREATED, 12.5, {"cpu": "Example 3000"}))

    assert (suite.name, suite.tests, suite.failures, suite.errors, suite.time) == ("yolox <nano> & co", 3, 1, 1, 12.5)
    assert suite.timestamp == "2027-03-04T15:09:00+00:00"
    assert [(each.name, each.value) for each in suite.properties()] == [("cpu", "Example 3000")]
    assert cases["AP @ ort"].is_passed
    (failure,) = cases["AP drop @ ort"].result
    assert failure.message == "expected <= 0.0100, measured 0.0400"
    assert "lost most: AP/person by 0.31" in failure.text
    (error,) = cases["p99 @ openvino"].result
    assert type(error).__name__ == "Error"
    assert "this engine did not run here" in error.text


def test_what_is_known_of_a_check_that_passes_is_its_output():
    check = Check("AP/* drop @ ort", 0.0, "<=", 0.05, note="beyond the limit: AP/stop sign (0.3030)")
    _, cases = read(junit_xml("some", (check,), CREATED))

    assert cases[check.name].is_passed
    assert cases[check.name].system_out == check.note


def test_without_a_check_the_one_case_fails():
    suite, cases = read(junit_xml("empty", (), CREATED))

    assert (suite.tests, suite.failures) == (1, 1)
    assert cases["contract"].result[0].message == "nothing was checked"


def test_two_limits_on_one_measurement_have_names_of_their_own():
    twice = (Check("p99 @ ort", 5.0, "<=", 8.0, "ms"), Check("p99 @ ort", 5.0, "<=", 4.0, "ms"))

    assert list(read(junit_xml("twice", twice, CREATED))[1]) == ["p99 @ ort <= 8", "p99 @ ort <= 4"]


@given(name=st.text(), note=st.text(), suite=st.text())
@settings(max_examples=40)
def test_any_name_of_a_class_makes_well_formed_xml(name, note, suite):
    from xml.etree import ElementTree

    text = junit_xml(suite, (Check(name, 0.0, ">=", 1.0, note=note),), CREATED)

    ElementTree.fromstring(text.encode())  # noqa: S314 (ours)
