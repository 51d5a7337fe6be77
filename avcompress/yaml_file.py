"""YAML files as users write them: composed with line numbers, and mistakes of pydantic's in one line's words."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import ErrorDetails

from avcompress.spec import RecipeError

Location = tuple[str | int, ...]
"""Keys and positions that lead to a value."""


@dataclass(frozen=True)
class Kind:
    """What sort of file is expected, for messages.

    Attributes:
        name: with its article left out, as "recipe".
        examples: where there are some.
    """

    name: str
    examples: str

    def __str__(self) -> str:
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


def compose(path: Path, kind: Kind) -> yaml.MappingNode:
    """Read a YAML file whose top level is a mapping; raises RecipeError with the file, and a line if it has one."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise RecipeError(f"{path}: expected {kind} file, got nothing there; give the path of a YAML file") from None
    except OSError as error:
        raise RecipeError(f"{path}: expected {kind} file, got {error.strerror}; give the path of a YAML file") from None
    except (UnicodeDecodeError, ValueError):
        raise RecipeError(f"{path}: expected YAML, got bytes that are not UTF-8; give the path of {kind}") from None
    except RecursionError:
        raise RecipeError(f"{path}: expected {kind}, got brackets without end; give the path of {kind}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: expected YAML, got {_plainly(error.problem)}; mend the line") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: expected YAML, got {str(error).splitlines()[0]}; mend the file") from None
    if not isinstance(root, yaml.MappingNode):
        got = "an empty file" if root is None else type(root).__name__.removesuffix("Node").lower()
        raise RecipeError(
            f"{path}: expected a mapping of keys at the top level, got {got}; see {kind.examples} for examples"
        )
    return root


def _plainly(problem: str | None) -> str:
    return (problem or "something else").removeprefix("but ").removeprefix("found ")


def plain(root: yaml.MappingNode, path: Path) -> Any:
    """The node tree as plain Python values; a key that is given twice is an error, which YAML loaders let pass."""
    for mapping in _mappings(root):
        seen: set[str] = set()
        for key, _ in mapping.value:
            name = str(key.value)
            if name in seen:
                line = key.start_mark.line + 1
                raise RecipeError(f"{path}:{line}: {name}: expected each key once, got it twice; remove one")
            seen.add(name)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        got = str(error).splitlines()[0]
        raise RecipeError(f"{path}: expected plain YAML values, got {got}; mend the file") from None


def _mappings(root: yaml.Node) -> Iterator[yaml.MappingNode]:
    """Every mapping of the tree once, however many aliases lead to it, or back to itself."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            yield node
            inside = [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        fresh = [child for child in inside if id(child) not in seen]
        seen.update(id(child) for child in fresh)
        waiting += reversed(fresh)


def line_of(node: yaml.Node, location: Location) -> int:
    """The line (from 1) of the deepest part of `location` that the file holds."""
    return _walk(node, location)[0]


def depth_of(node: yaml.Node, location: Location) -> int:
    """How many parts of `location` the file holds."""
    return _walk(node, location)[1]


def _walk(node: yaml.Node, location: Location) -> tuple[int, int]:
    line = int(node.start_mark.line) + 1
    for depth, item in enumerate(location):
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(item)]
            if not found:
                return line, depth
            line, node = int(found[0][0].start_mark.line) + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(item, int) and item < len(node.value):
            node = node.value[item]
            line = int(node.start_mark.line) + 1
        else:
            return line, depth
    return line, len(location)


def spell(location: Location) -> str:
    """A location as one reads it: `stages[0].kind`; empty for the whole file."""
    text = ""
    for item in location:
        text += f"[{item}]" if isinstance(item, int) else f".{item}" if text else item
    return text


def complaint(detail: ErrorDetails) -> str:
    """What is wrong with one value, and what to do, without saying where it is."""
    match detail["type"]:
        case "missing":
            return "expected this key, got nothing; add it"
        case "value_error":
            return detail["msg"].removeprefix("Value error, ")
        case "string_type" if isinstance(detail["input"], (bool, int, float)):
            return f"expected text, got {detail['input']!r}; put it in quotes"
        case _:
            return f"expected {_wanted(detail['msg'])}, got {_shorten(detail['input'])}; mend it"


def _wanted(message: str) -> str:
    """What pydantic says that a value should be, as the object of `expected`."""
    subject, found, rest = message.partition(" should ")
    if not found:
        return message[:1].lower() + message[1:]
    if rest.startswith("be "):
        return rest.removeprefix("be ").replace("a valid tuple", "a list").replace("a valid dictionary", "a mapping")
    return f"a {subject.lower()} to {rest}"


def _shorten(value: Any) -> str:
    if not isinstance(value, str):
        # Of a few items and levels: aliases make small files that are endless when written out.
        limited = reprlib.Repr()
        limited.maxstring = limited.maxother = 60
        return limited.repr(value)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
