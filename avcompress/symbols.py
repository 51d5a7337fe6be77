"""Signs for terminals, and words for those that cannot show them."""

from __future__ import annotations

from rich.console import Console


def spelled(console: Console, sign: str, word: str) -> str:
    """The sign, or the word where the console's encoding lacks it."""
    try:
        sign.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return word
    return sign


def tick(console: Console) -> str:
    """What says that something went well."""
    return spelled(console, "✓", "ok")
