from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from avcompress.search.trials.choices import ChoiceError, Options, Range, choices_in, resolved
from avcompress.search.trials.tiers import tier_of_node


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
    found = list(choices_in(tree(TEXT), lambda _: 0))

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
        ("a:\n  between: [1, x]", "expected two numbers"),
        ("a:\n  {between: [0, 1], log: true}", "above 0 with log"),
        ("a:\n  {between: [0, 1], stop: 1}", "stop: unknown key"),
    ],
)
def test_a_choice_that_offers_nothing_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ChoiceError, match=message) as error:
        list(choices_in(tree(text), lambda _: 0))

    assert error.value.line == 2


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("{kind: ptq}", 0),
        ("[{kind: ptq}, {kind: adaround}]", 1),
        ("[{kind: prune, recover: {kind: train}}]", 2),
        ("[{kind: ptq}, {choose: [{kind: qat}, null]}]", 0),
    ],
)
def test_a_part_of_a_recipe_costs_what_its_dearest_stage_does_and_a_choice_what_its_cheapest(
    text: str, tier: int
) -> None:
    assert tier_of_node(tree(text)) == tier
