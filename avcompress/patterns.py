"""Layers by the patterns of a recipe."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from avcompress.spec import RecipeError


def matched(names: Mapping[str, Iterable[str]], patterns: Iterable[str], where: str) -> set[str]:
    """The layers of which one of the names matches a pattern.

    Raises RecipeError, saying `where`, for a pattern that matches none.
    """
    found: set[str] = set()
    for pattern in patterns:
        hits = {layer for layer, known in names.items() if any(fnmatchcase(name, pattern) for name in known)}
        if not hits:
            every = sorted({name for known in names.values() for name in known})
            near = difflib.get_close_matches(pattern.strip("*"), every, n=3, cutoff=0.0)
            raise RecipeError(
                f"{where}: expected patterns that match a weighted layer's node, weight or output name, "
                f"got {pattern!r}; the nearest names are {', '.join(near) or '(the network has no such layer)'}"
            )
        found |= hits
    return found
