"""Small files of /sys and /proc: what cannot be read is None, whatever the reason.

A container hides them, others belong to root, and a Jetson's sensors answer with an error while their part sleeps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_LARGEST = 1 << 16


def read_text(path: Path) -> str | None:
    """The file's text without the blanks around it; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode(errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path, scale: float = 1.0) -> float | None:
    """The number in a file, times `scale`; None when there is none."""
    try:
        return float(read_text(path) or "") * scale
    except ValueError:
        return None


def folders(parent: Path, pattern: str) -> list[Path]:
    """The folders below `parent` that match, numbers in their order: cpu2 before cpu10."""
    try:
        return sorted(parent.glob(pattern), key=_natural)
    except OSError:
        return []


def by_name(found: Iterator[tuple[str, float | None]]) -> dict[str, float]:
    """What was read, by name; a name that is there twice gets a number."""
    values: dict[str, float] = {}
    for name, value in found:
        if value is not None:
            values[unused(name, values)] = value
    return values


def unused(name: str, taken: dict[str, float]) -> str:
    """The name, or the name with the next number after it."""
    number = 2
    new = name
    while new in taken:
        new, number = f"{name} {number}", number + 1
    return new


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]
