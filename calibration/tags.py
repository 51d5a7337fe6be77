"""What is known of images as a whole: tags, from a file beside the labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from avcompress.recipe import SourceSettings
from avcompress.spec import DataError
from calibration.decode import read_bytes

BOM = b"\xef\xbb\xbf"
SCALARS = (str, bool, int, float)


def read_tags(settings: SourceSettings, root: Path, names: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    """The tags by image name, from the settings' file; empty without one.

    `names`: of all images of the format, chosen or not. Raises DataError for what is no such JSON, and for a name that
    no image has.
    """
    if settings.tags is None:
        return {}
    path = root / settings.tags
    try:
        content = json.loads(read_bytes(path).removeprefix(BOM))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, image name -> {{tag: value}}, got {error}; mend the file") from error
    if not isinstance(content, dict):
        got = type(content).__name__
        raise DataError(f"{path}: expected a JSON object, image name -> {{tag: value}}, got a {got}; mend the file")
    known = dict.fromkeys(names)
    strange = [name for name in content if name not in known]
    if strange:
        others = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise DataError(
            f"{path}: expected the names of images, got {strange[0]!r}{others} that no image has; "
            f"write them as {next(iter(known), '')!r}"
        )
    return {name: _tags(found, f"{path}: {name}") for name, found in content.items()}


def _tags(found: Any, where: str) -> Mapping[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, SCALARS) or value is None for value in found.values()):
        raise DataError(
            f"{where}: expected {{tag: value}}, each value text, a number or a truth, got {found!r}; mend it"
        )
    return as_text(found)


def as_text(found: Any) -> dict[str, str]:
    """The scalars of a mapping as text: true, 3, 0.5, rain; what else it holds, and what is no mapping, is left out."""
    if not isinstance(found, dict):
        return {}
    return {str(name): text(value) for name, value in found.items() if isinstance(value, SCALARS)}


def text(value: str | float) -> str:
    """A scalar as tags hold it, truths as JSON writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)
