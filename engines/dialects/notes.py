"""Reasons by node as few lines for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_SHOWN = 3
_DETAILS = re.compile(r"'[^']*'|\d[\d.e+-]*")


def grouped(what: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """One line for all nodes that share a reason but for the names and numbers in it: `what` happens to them, and why.

    what: as "stays FP32".
    """
    alike: dict[str, list[str]] = {}
    for name, why in reasons.items():
        alike.setdefault(_DETAILS.sub("", why), []).append(name)
    for names in alike.values():
        why = reasons[names[0]]
        if len(names) == 1:
            yield f"{names[0]} {what}: {why}"
        else:
            more = ", ..." if len(names) > 1 + _SHOWN else ""
            yield f"{names[0]} {what}: {why}; so do {len(names) - 1} more: {', '.join(names[1 : 1 + _SHOWN])}{more}"
