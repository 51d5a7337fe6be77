"""From a recipe file to a Recipe: a mistake becomes one line that names the file, the line, the key and the mend."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from avcompress.recipe import Model, Recipe
from avcompress.spec import RecipeError

Location = tuple[str | int, ...]
TAG_KEYS = ("format", "kind", "backend")


def load_recipe(path: Path) -> Recipe:
    """Read and check a YAML recipe.

    Raises RecipeError: `file:line: key: expected ..., got ...; what to do`, for the first mistake in file order.
    """
    root = _compose(path)
    data = _plain(root, path)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if not _is_echo(detail)]
        # A misspelt key shows as an unknown one and, where it is required, as a missing one: the unknown tells more.
        lines = sorted((detail["type"] != "extra_forbidden", *_explain(detail, root, data)) for detail in details)
        _, line, message = lines[0]
        more = f" ({len(lines) - 1} more after this one)" if len(lines) > 1 else ""
        raise RecipeError(f"{path}:{line}: {message}{more}") from None


def _compose(path: Path) -> yaml.MappingNode:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise RecipeError(f"{path}: expected a recipe file, got nothing there; give the path of a YAML file") from None
    except OSError as error:
        raise RecipeError(
            f"{path}: expected a recipe file, got {error.strerror}; give the path of a YAML file"
        ) from None
    except (UnicodeDecodeError, ValueError):
        raise RecipeError(f"{path}: expected YAML, got bytes that are not UTF-8; give the path of a recipe") from None
    except RecursionError:
        raise RecipeError(f"{path}: expected a recipe, got brackets without end; give the path of a recipe") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: expected YAML, got {_plainly(error.problem)}; mend the line") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: expected YAML, got {str(error).splitlines()[0]}; mend the file") from None
    if not isinstance(root, yaml.MappingNode):
        kind = "an empty file" if root is None else type(root).__name__.removesuffix("Node").lower()
        raise RecipeError(f"{path}: expected a mapping of keys at the top level, got {kind}; see recipes/ for examples")
    return root


def _plainly(problem: str | None) -> str:
    return (problem or "something else").removeprefix("but ").removeprefix("found ")


def _plain(root: yaml.MappingNode, path: Path) -> Any:
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


def _is_echo(detail: ErrorDetails) -> bool:
    """Whether pydantic calls a list too short only because its items failed."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _explain(detail: ErrorDetails, root: yaml.Node, data: Any) -> tuple[int, str]:
    location = _without_tags(detail["loc"], data)
    place = _spell(location)
    line = _line(root, location)
    match detail["type"]:
        case "extra_forbidden":
            return line, f"{place}: unknown key{_nearest(detail['loc'])}"
        case "missing":
            return line, f"{place}: expected this key, got nothing; add it"
        case "union_tag_not_found":
            key = str(detail["ctx"]["discriminator"]).strip("'")
            close = difflib.get_close_matches(key, detail["input"], n=1, cutoff=0.5)
            if close:
                line = _line(root, (*location, close[0]))
                return line, f"{place}.{close[0]}: unknown key; did you mean '{key}'?"
            return line, f"{place}.{key}: expected this key, got nothing; add it"
        case "union_tag_invalid":
            context = detail["ctx"]
            return line, f"{place}: expected one of {context['expected_tags']}, got '{context['tag']}'; choose one"
        case "value_error":
            return line, f"{place}: {detail['msg'].removeprefix('Value error, ')}"
        case "string_type" if isinstance(detail["input"], (bool, int, float)):
            return line, f"{place}: expected text, got {detail['input']!r}; put it in quotes"
        case _:
            return line, f"{place}: expected {_wanted(detail['msg'])}, got {_shorten(detail['input'])}; mend it"


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


def _without_tags(loc: Location, data: Any) -> Location:
    """A pydantic location without the union tags that it holds beside real keys."""
    kept: list[str | int] = []
    fresh = True  # the tag, where there is one, comes right after a value is entered
    for item in loc:
        if fresh and isinstance(data, Mapping) and _is_tag(item, data):
            fresh = False
            continue
        kept.append(item)
        data = _enter(data, item)
        fresh = True
    return tuple(kept)


def _is_tag(item: str | int, data: Mapping[str, Any]) -> bool:
    return item in [data.get(key) for key in TAG_KEYS] or (item in ("file", "module") and item not in data)


def _enter(data: Any, item: str | int) -> Any:
    if isinstance(data, Mapping):
        return data.get(item)
    if isinstance(data, list) and isinstance(item, int) and item < len(data):
        return data[item]
    return None


def _spell(location: Location) -> str:
    text = ""
    for item in location:
        text += f"[{item}]" if isinstance(item, int) else f".{item}" if text else item
    return text or "recipe"


def _line(node: yaml.Node, location: Location) -> int:
    """The line (from 1) of the deepest part of `location` that the file holds."""
    line = node.start_mark.line + 1
    for item in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(item)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(item, int) and item < len(node.value):
            node = node.value[item]
            line = node.start_mark.line + 1
        else:
            break
    return int(line)


def _nearest(loc: Location) -> str:
    """The valid key that comes nearest to the last item of `loc`."""
    place = loc[:-1]
    if place[-1:] == ("module",):  # taken for one only because there is no `onnx`
        place = place[:-1]
    keys = sorted({key for model in _models_at(place) for key in model.model_fields})
    close = difflib.get_close_matches(str(loc[-1]), keys, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; valid keys here: {', '.join(keys)}"


def _models_at(loc: Location) -> list[type[Model]]:
    models: list[type[Model]] = [Recipe]
    for item in loc:
        if isinstance(item, int):
            continue
        fields = [model.model_fields[item] for model in models if item in model.model_fields]
        tagged = [model for model in models if item in _tags(model)]
        # A tag follows only where several models are possible; a field name elsewhere.
        models = tagged if tagged and len(models) > 1 else [m for field in fields for m in _models_in(field.annotation)]
    return models


def _tags(model: type[Model]) -> list[str]:
    literals = [model.model_fields[key].annotation for key in TAG_KEYS if key in model.model_fields]
    kind = "file" if "onnx" in model.model_fields else "module"
    return [value for literal in literals for value in get_args(literal)] or [kind]


def _models_in(annotation: Any) -> list[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    if get_origin(annotation) is Literal:
        return []
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
