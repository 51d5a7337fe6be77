"""From the names in label files to indices into a network's class table."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from avcompress.spec import DataError

Aliases = Mapping[str, str | None]
OTHERS = "*"
"""The alias of every label that is neither a class nor listed."""


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for a message: the name most like `name`, or what there is to choose from."""
    known = tuple(names)
    by_lower = {one.lower(): one for one in reversed(known)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f"the nearest class is {by_lower[close[0]]!r}"
    return f"the classes are {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"


@dataclass(frozen=True)
class ClassTable:
    """The classes in the network's order, and how label names map onto them; a null alias means ignore.

    The alias OTHERS is that of every label that is neither a class nor has an alias of its own.

    Raises DataError when a class is listed twice or an alias leads to none.
    """

    names: tuple[str, ...]
    aliases: Aliases

    def __post_init__(self) -> None:
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice or not self.names:
            got = f"{sorted(twice)} twice" if twice else "none"
            raise DataError(f"classes: expected distinct names, got {got}; list each class once")
        for label, name in self.aliases.items():
            if name is not None and name not in self.names:
                raise DataError(
                    f"aliases.{label}: expected a class, got {name!r}; {nearest(name, self.names)}, null ignores"
                )

    @classmethod
    def build(cls, classes: tuple[str, ...] | None, labels: Iterable[str], aliases: Aliases) -> ClassTable:
        """The given classes, or else the label names in their order, each replaced by its alias.

        Raises DataError for the alias of all others without classes: then every label is one.
        """
        if classes is None:
            if OTHERS in aliases:
                raise DataError(f"aliases.{OTHERS}: expected `classes` beside it, got none; list the network's classes")
            targets = (aliases.get(label, label) for label in labels)
            classes = tuple(dict.fromkeys(target for target in targets if target is not None))
        return cls(classes, aliases)

    def index(self, label: str, where: str) -> int | None:
        """The class index of a label name, None to ignore; raises DataError, naming `where`, for an unknown name."""
        known = label in self.aliases or label in self.names
        if not known and OTHERS not in self.aliases:
            raise DataError(
                f"{where}: expected a known class, got label {label!r}; {nearest(label, self.names)}: "
                f"map the label under `aliases`, null to ignore it, or all such labels as '{OTHERS}'"
            )
        name = self.aliases.get(label, label) if known else self.aliases[OTHERS]
        return None if name is None else self.names.index(name)
