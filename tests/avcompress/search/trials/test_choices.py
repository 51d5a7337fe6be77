from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from avcompress.search.trials.choices import ChoiceError, Options, Range, choices_in, resolved


def tree(text: str) -> yaml.Node:
    return yaml.compose(text, Loader=yaml.SafeLoader)


def plain(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_document(node)


TEXT = """
a: {choose: [1, {deep: {choose: [x, y]}}]}
list:
  - first
  - choose: [null, second, [third, fourth]]
b: {between: [1, 8]}
c: {between: [0.5, 2.0], log: true}
"""


def test_choices_are_named_by_their_place_and_tell_which_options_lead_to_them() -> None:
    found = list(choices_in(tree(TEXT)))

    assert found == [
        Options("a", 2, (0, 0)),
        Options("a=1.deep", 2, (0, 0), (("a", 1),)),
        Options("list[1]", 5, (0, 0, 0)),
        Range("b", 6, 1, 8, whole=True, log=False),
        Range("c", 7, 0.5, 2, whole=False, log=True),
    ]


@pytest.mark.parametrize(
    ("suggestion", "expected"),
    [
        ({}, {"a": 1, "list": ["first"], "b": 1, "c": 0.5}),
        ({"a": 1, "list[1]": 1}, {"a": {"deep": "x"}, "list": ["first", "second"], "b": 1, "c": 0.5}),
        (
            {"a": 1, "a=1.deep": 1, "list[1]": 2, "b": 8, "c": 1e-05},
            {"a": {"deep": "y"}, "list": ["first", "third", "fourth"], "b": 8, "c": 1e-05},
        ),
    ],
)
def test_a_suggestion_takes_the_place_of_each_choice(suggestion: dict[str, float], expected: Any) -> None:
    node = tree(TEXT)

    assert plain(resolved(node, suggestion)) == expected
    assert plain(node)["a"] == {"choose": [1, {"deep": {"choose": ["x", "y"]}}]}  # the tree itself stays


def test_what_takes_the_place_of_a_choice_keeps_its_line() -> None:
    found = resolved(tree("a:\n  choose:\n    - 1\n    - 2\n"), {"a": 1})

    assert found.value[0][1].start_mark.line == 3


@given(low=st.floats(-1e6, 1e6), value=st.floats(-1e6, 1e6))
def test_a_real_number_comes_out_as_it_was_suggested(low: float, value: float) -> None:
    text = f"a: {{between: [{low!r}, {low + 1e7!r}]}}"
    if "e" not in text.replace("between", ""):
        assert plain(resolved(tree(text), {"a": value})) == {"a": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n  choose: []", "expected a list of options"),
        ("a:\n  choose: 3", "expected a list of options"),
        ("a:\n  {choose: [1], by: 2}", "expected `choose` alone"),
        ("a:\n  between: [2, 1]", "expected a smaller number first"),
        ("a:\n  between: [1, x]", "expected two finite numbers"),
        ("a:\n  {between: [0, 1], log: true}", "above 0 with log"),
        ("a:\n  {between: [0, 1], stop: 1}", "stop: unknown key"),
    ],
)
def test_a_choice_that_offers_nothing_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ChoiceError, match=message) as error:
        list(choices_in(tree(text)))

    assert error.value.line == 2


@pytest.mark.parametrize(
    ("text", "low", "high", "whole", "log"),
    [
        ("[0x10, 1000]", 16, 1000, True, False),
        ("[010, 1_000]", 8, 1000, True, False),
        ("[1, 2.5e+1], log: True", 1, 25, False, True),
        ("[1e-4, 1e-2]", 1e-4, 1e-2, False, False),
        ("[1, 8], log: yes", 1, 8, True, True),
        ("[1, 8], log: off", 1, 8, True, False),
    ],
)
def test_a_range_is_read_as_any_other_value_of_yaml_is(
    text: str, low: float, high: float, whole: bool, log: bool
) -> None:
    (found,) = choices_in(tree(f"a: {{between: {text}}}"))

    assert found == Range("a", 1, low, high, whole, log)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n  between: [1, .inf]", r"expected two finite numbers, low and high, got \[1, inf\]"),
        ("a:\n  between: [.nan, 1]", r"got \[nan, 1\]"),
        ("a:\n  between: [1, true]", r"got \[1, True\]"),
        ("a:\n  between: [0, 1" + 400 * "0" + "]", "expected two finite numbers"),
        ("a:\n  between: [2001-02-30, 1]", "expected plain YAML values"),
        ("a:\n  between: 3", "got 3"),
        ("a: {between: [1, 8],\n  log: 7}", "log: expected true or false, got 7"),
        ("a: {between: [1, 8],\n  log: 'true'}", "log: expected true or false, got 'true'"),
    ],
)
def test_a_range_without_two_finite_numbers_or_with_a_log_that_is_no_boolean_is_refused_with_its_line(
    text: str, message: str
) -> None:
    with pytest.raises(ChoiceError, match=message) as error:
        list(choices_in(tree(text)))

    assert error.value.line == 2
