"""Recipes as files: those of trials, and the one that a search ends with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from avcompress.recipe import Recipe


def recipe_text(recipe: Recipe, start: Path, folder: Path) -> str:
    """A recipe as YAML, with all that its author wrote and what was chosen.

    Args:
        recipe: to be written.
        start: the folder that its `import_from` are relative to.
        folder: the one that it will lie in, so that they lead to the same places.
    """
    data = _moved(recipe.model_dump(mode="json", exclude_unset=True), start, folder)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def moved_text(text: str, start: Path, folder: Path) -> str:
    """What `recipe_text` has written for the folder `start`, for another one."""
    return yaml.safe_dump(_moved(yaml.safe_load(text), start, folder), sort_keys=False, allow_unicode=True, width=120)


def _moved(value: Any, start: Path, folder: Path) -> Any:
    if isinstance(value, dict):
        return {
            key: os.path.relpath(start / each, folder)
            if key == "import_from" and isinstance(each, str)
            else _moved(each, start, folder)
            for key, each in value.items()
        }
    return [_moved(each, start, folder) for each in value] if isinstance(value, list) else value
