"""Choices in a YAML tree: `{choose: [a, b]}` and `{between: [low, high]}` in the place of a value, and their removal.

Trees are never changed: what takes a choice's place keeps the line that it has in the file, so that a mistake in it is
told with its line. In a list, an option that is null leaves the item out, and one that is a list takes the place of
the item with all it holds: so stages may be left out, or come in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Value = int | float
"""The number of an option, or a value of a range."""
NULL = "tag:yaml.org,2002:null"
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


@dataclass(frozen=True)
class Options:
    """One of several.

    Attributes:
        name: where the choice is: `stages[1].ranges`; within the option 0 of another one `stages[1]=0.ratio`.
        line: of the file, from 1.
        tiers: of each option, that of the cheapest recipe with it: see `tiers`; zeros until a space has found them.
        given: the options of other choices, by name, that lead to this one.
    """

    name: str
    line: int
    tiers: tuple[int, ...]
    given: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Range:
    """A number between two, both included; whole where both are. The other attributes as of Options."""

    name: str
    line: int
    low: float
    high: float
    whole: bool
    log: bool
    given: tuple[tuple[str, int], ...] = ()


Choice = Options | Range
Suggestion = Mapping[str, Value]
"""A value for each choice that is reached, by its name."""


class ChoiceError(ValueError):
    """A choice that offers nothing; its line, and what is wrong."""

    def __init__(self, node: yaml.Node, message: str) -> None:
        super().__init__(message)
        self.line = int(node.start_mark.line) + 1


def resolved(node: yaml.Node, suggestion: Suggestion, name: str = "") -> yaml.Node:
    """The tree with a value in the place of each choice; one that has no suggestion takes its first option, or low."""
    if _is_choice(node):
        return _chosen(node, suggestion, name)
    if isinstance(node, yaml.MappingNode):
        pairs = [(key, resolved(value, suggestion, _inside(name, key.value))) for key, value in node.value]
        return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
    if isinstance(node, yaml.SequenceNode):
        items = list(_items(node, suggestion, name))
        return yaml.SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    return node


def choices_in(node: yaml.Node, name: str = "", given: tuple[tuple[str, int], ...] = ()) -> Iterator[Choice]:
    """All choices of a tree, those within options of others too, in the order of the file; raises ChoiceError."""
    if not _is_choice(node):
        for inner, value in _parts(node, name):
            yield from choices_in(value, inner, given)
    elif "between" in _keys(node):
        yield _range(node, name, given)
    else:
        options = _options(node)
        yield Options(name, _line(node), (0,) * len(options), given)
        for number, option in enumerate(options):
            yield from choices_in(option, f"{name}={number}", (*given, (name, number)))


def texts_in(node: yaml.Node, name: str = "") -> dict[str, tuple[str, ...]]:
    """What the options of each choice say, on a line each, by the choice's name."""
    if not _is_choice(node):
        return {key: texts for inner, value in _parts(node, name) for key, texts in texts_in(value, inner).items()}
    if "between" in _keys(node):
        return {}
    options = _options(node)
    found = {name: tuple(_text(option) for option in options)}
    for number, option in enumerate(options):
        found |= texts_in(option, f"{name}={number}")
    return found


def _text(node: yaml.Node) -> str:
    value = yaml.SafeLoader("").construct_document(node)
    return yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True).split("\n")[0]


def _is_choice(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode) and not {"choose", "between"}.isdisjoint(_keys(node))


def _keys(node: yaml.Node) -> dict[str, yaml.Node]:
    return {str(key.value): value for key, value in node.value}


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _parts(node: yaml.Node, name: str) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((_inside(name, key.value), value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from ((f"{name}[{number}]", item) for number, item in enumerate(node.value))


def _items(node: yaml.SequenceNode, suggestion: Suggestion, name: str) -> Iterator[yaml.Node]:
    for number, item in enumerate(node.value):
        value = resolved(item, suggestion, f"{name}[{number}]")
        if not _is_choice(item):
            yield value
        elif isinstance(value, yaml.SequenceNode):
            yield from value.value
        elif value.tag != NULL:
            yield value


def _chosen(node: yaml.Node, suggestion: Suggestion, name: str) -> yaml.Node:
    if "between" in _keys(node):
        found = _range(node, name, ())
        value = suggestion.get(name, found.low)
        text = str(int(value)) if found.whole else repr(float(value))
        return yaml.ScalarNode(INT if found.whole else FLOAT, text, node.start_mark, node.end_mark)
    number = int(suggestion.get(name, 0))
    return resolved(_options(node)[number], suggestion, f"{name}={number}")


def _options(node: yaml.Node) -> list[yaml.Node]:
    keys = _keys(node)
    options = keys["choose"]
    if len(keys) > 1:
        raise ChoiceError(
            node, f"expected `choose` alone, got {' and '.join(keys)}; put the other key into the options"
        )
    if not isinstance(options, yaml.SequenceNode) or not options.value:
        raise ChoiceError(node, "choose: expected a list of options, got none; list them, or write the value itself")
    return list(options.value)


def _range(node: yaml.Node, name: str, given: tuple[tuple[str, int], ...]) -> Range:
    keys = _keys(node)
    unknown = [key for key in keys if key not in {"between", "log"}]
    if unknown:
        raise ChoiceError(node, f"{unknown[0]}: unknown key; valid keys here: between, log")
    ends = _read(keys["between"])
    ends = [*map(_number, ends)] if isinstance(ends, list) else ends
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(_is_finite, ends)):
        raise ChoiceError(
            keys["between"], f"between: expected two finite numbers, low and high, got {_told(ends)}; mend them"
        )
    log = _read(keys["log"]) if "log" in keys else False
    if not isinstance(log, bool):
        raise ChoiceError(keys["log"], f"log: expected true or false, got {_told(log)}; mend it")
    low, high = map(float, ends)
    if not low < high or (log and low <= 0):
        raise ChoiceError(
            node, f"between: expected a smaller number first{', above 0 with log' if log else ''}; mend it"
        )
    return Range(name, _line(node), low, high, all(isinstance(end, int) for end in ends), log, given)


def _read(node: yaml.Node) -> Any:
    """What a node says, by the same rules as any other value of a recipe: 010 is eight, yes is true."""
    try:
        return yaml.SafeLoader("").construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ChoiceError(node, f"expected plain YAML values, got {str(error).splitlines()[0]}; mend them") from None


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-4 for a word; in a recipe it is a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
