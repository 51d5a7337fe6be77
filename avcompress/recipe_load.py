"""From a recipe or update file to its model: a mistake becomes one line that names file, line, key and mend."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from avcompress.frozen import Model
from avcompress.recipe import Recipe
from avcompress.recipe_update import Update
from avcompress.spec import RecipeError
from avcompress.yaml_file import Kind, Location, complaint, compose, line_of, plain, spell

TAG_KEYS = ("format", "kind", "backend")
FORMS = ("alone", "listed", "by_pattern")
"""The tags of what may be one value or several, which no key of the file holds."""
KEY_TAGS = {
    "onnx": "file",
    "structure": "saved",
    "factory": "module",
    "file": "scores",
    "function": "code",
    "energy": "energy",
    "speedup": "speedup",
}
"""The tags of models that are told apart by a key that they have."""
M = TypeVar("M", bound=Model)


def load_recipe(path: Path) -> Recipe:
    """Read and check a YAML recipe.

    Raises RecipeError: `file:line: key: expected ..., got ...; what to do`, for the first mistake in file order.
    """
    root = compose(path, Kind("recipe", "recipes/"))
    for key, _ in root.value:
        if key.value == "search":
            line = key.start_mark.line + 1
            raise RecipeError(f"{path}:{line}: search: expected a recipe, got a search file; use `avcompress search`")
    return check_node(root, path, Recipe)


def load_update(path: Path) -> Update:
    """Read and check the YAML file of an update; raises RecipeError as load_recipe does."""
    return _load(path, Kind("update", "docs/update.md"), Update)


def _load(path: Path, kind: Kind, model: type[M]) -> M:
    return check_node(compose(path, kind), path, model)


def check_node(root: yaml.MappingNode, path: Path, model: type[M]) -> M:
    """What a mapping of a YAML file says, as a model; raises RecipeError as load_recipe does."""
    data = plain(root, path)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if not _is_echo(detail)]
        # A misspelt key shows as an unknown one and, where it is required, as a missing one: the unknown tells more.
        lines = sorted(
            (detail["type"] != "extra_forbidden", *_explain(detail, root, data, model)) for detail in details
        )
        _, line, message = lines[0]
        more = f" ({len(lines) - 1} more after this one)" if len(lines) > 1 else ""
        raise RecipeError(f"{path}:{line}: {message}{more}") from None


def _is_echo(detail: ErrorDetails) -> bool:
    """Whether pydantic calls a list too short only because its items failed."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _explain(detail: ErrorDetails, root: yaml.Node, data: Any, model: type[Model]) -> tuple[int, str]:
    location = _without_tags(detail["loc"], data)
    place = spell(location) or model.__name__.lower()
    line = line_of(root, location)
    match detail["type"]:
        case "extra_forbidden":
            return line, f"{place}: unknown key{_nearest(detail['loc'], model)}"
        case "union_tag_not_found":
            key = str(detail["ctx"]["discriminator"]).strip("'")
            close = difflib.get_close_matches(key, detail["input"], n=1, cutoff=0.5)
            if close:
                line = line_of(root, (*location, close[0]))
                return line, f"{place}.{close[0]}: unknown key; did you mean '{key}'?"
            return line, f"{place}.{key}: expected this key, got nothing; add it"
        case "union_tag_invalid":
            context = detail["ctx"]
            return line, f"{place}: expected one of {context['expected_tags']}, got '{context['tag']}'; choose one"
        case _:
            return line, f"{place}: {complaint(detail)}"


def _without_tags(loc: Location, data: Any) -> Location:
    """A pydantic location without the union tags that it holds beside real keys."""
    kept: list[str | int] = []
    fresh = True  # the tag, where there is one, comes right after a value is entered
    for item, following in itertools.zip_longest(loc, loc[1:]):
        if item in FORMS:
            continue
        if fresh and isinstance(data, Mapping) and (_is_tag(item, data) or _names_itself(item, following, data)):
            fresh = False
            continue
        if isinstance(item, str) and isinstance(data, str):  # one of several values, or else a mapping
            continue
        kept.append(item)
        data = _enter(data, item)
        fresh = True
    return tuple(kept)


def _is_tag(item: str | int, data: Mapping[str, Any]) -> bool:
    return item in [data.get(key) for key in TAG_KEYS] or (item in KEY_TAGS.values() and item not in data)


def _names_itself(item: str | int, following: str | int | None, data: Mapping[str, Any]) -> bool:
    """Whether a model is called after the key that tells it: {energy: 0.9} is `energy`, and so is its key."""
    return item == following and not isinstance(_enter(data, item), Mapping | list)


def _enter(data: Any, item: str | int) -> Any:
    if isinstance(data, Mapping):
        return data.get(item)
    if isinstance(data, list) and isinstance(item, int) and item < len(data):
        return data[item]
    return None


def _nearest(loc: Location, model: type[Model]) -> str:
    """The valid key that comes nearest to the last item of `loc`."""
    place = loc[:-1]
    if place[-1:] in {("module",), ("code",), ("energy",)}:  # taken for one only because another's key is not there
        place = place[:-1]
    keys = sorted({key for found in _models_at(place, model) for key in found.model_fields})
    close = difflib.get_close_matches(str(loc[-1]), keys, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; valid keys here: {', '.join(keys)}"


def _models_at(loc: Location, root: type[Model]) -> list[type[Model]]:
    models: list[type[Model]] = [root]
    for item in loc:
        if isinstance(item, int) or item in FORMS:
            continue
        fields = [model.model_fields[item] for model in models if item in model.model_fields]
        tagged = [model for model in models if item in _tags(model)]
        # A tag follows only where several models are possible; a field name elsewhere.
        models = tagged if tagged and len(models) > 1 else [m for field in fields for m in _models_in(field.annotation)]
    return models


def _tags(model: type[Model]) -> list[str]:
    literals = [model.model_fields[key].annotation for key in TAG_KEYS if key in model.model_fields]
    keys = [tag for key, tag in KEY_TAGS.items() if key in model.model_fields]
    return [value for literal in literals for value in get_args(literal)] or keys


def _models_in(annotation: Any) -> list[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    if get_origin(annotation) is Literal:
        return []
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
