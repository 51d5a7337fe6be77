"""One profile on top of the one that it extends, both as plain values of their YAML files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engines.profile_check import covers

Data = Mapping[str, Any]
_SAID = ("sources", "derived")


def merge(parent: Data, child: Data) -> dict[str, Any]:
    """The parent with what the child says instead; a mapping is merged key by key, a list replaced, null removes.

    A machine that loses its DLA loses it on every platform. New platforms come before the parent's. What the parent
    says of the origin of a figure is dropped where the child gives another figure: its source no longer holds.
    """
    if "dla" in child and child["dla"] is None:
        parent = _without_dla(parent)
    fresh = _fresh(parent, child)
    merged: dict[str, Any] = {key: value for key, value in parent.items() if key not in {*_SAID, "unverified"}}
    for key, value in child.items():
        if key not in {"extends", *_SAID, "unverified"}:
            merged[key] = _platforms(merged.get(key), value) if key == "platforms" else _over(merged.get(key), value)
    merged = {key: _without_nulls(value) for key, value in merged.items() if value is not None}
    known = set(_leaves(merged))
    for key in _SAID:
        merged[key] = _texts(parent, child, key, fresh, known)
    merged["unverified"] = _names(parent, child, fresh, known)
    return merged


def _without_dla(data: Data) -> Data:
    platforms = {
        name: {key: value for key, value in platform.items() if key != "dla"}
        if isinstance(platform, Mapping)
        else platform
        for name, platform in _mapping(data, "platforms").items()
    }
    return {**data, "platforms": platforms}


def _over(parent: Any, child: Any) -> Any:
    if isinstance(parent, Mapping) and isinstance(child, Mapping):
        return {**parent, **{key: _over(parent.get(key), value) for key, value in child.items()}}
    return child


def _platforms(parent: Any, child: Any) -> Any:
    """Platforms by name, the new ones first; one whose versions change loses its source."""
    if not (isinstance(parent, Mapping) and isinstance(child, Mapping)):
        return child
    merged = {name: value for name, value in child.items() if name not in parent}
    for name, old in parent.items():
        new = child.get(name, old)
        merged[name] = _over(old, new)
        if name in child and isinstance(new, Mapping) and "source" not in new and isinstance(merged[name], Mapping):
            merged[name] = {key: value for key, value in merged[name].items() if key != "source"}
    return merged


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}


def _fresh(parent: Data, child: Data) -> frozenset[str]:
    """The figures that the child gives, or gives a source for: what the parent says of their origin no longer holds."""
    before, after = dict(_leaves(parent)), dict(_leaves(child))
    changed = {name for name, value in after.items() if name not in before or before[name] != value}
    sourced = {name for name in before for said in _mapping(child, "sources") if covers(said, name)}
    return frozenset(changed | sourced)


def _leaves(data: Data) -> dict[str, Any]:
    """The figures of a file by dotted name, a platform as a whole."""
    return dict(_walk(data, ""))


def _walk(data: Data, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if prefix or key not in {"extends", "title", "kind", "unverified", *_SAID}:
            name = f"{prefix}{key}"
            if isinstance(value, Mapping) and prefix != "platforms.":
                yield from _walk(value, f"{name}.")
            else:
                yield name, value


def _mapping(data: Data, key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _texts(parent: Data, child: Data, key: str, fresh: frozenset[str], known: set[str]) -> Any:
    """What both say of figures; the parent's only for those that are still there and still its own."""
    own = child.get(key)
    if own is not None and not isinstance(own, Mapping):
        return own
    kept = {
        name: text for said, text in _mapping(parent, key).items() for name in _kept(str(said), parent, fresh, known)
    }
    return {**kept, **(own or {})}


def _names(parent: Data, child: Data, fresh: frozenset[str], known: set[str]) -> Any:
    own = child.get("unverified")
    if own is not None and not isinstance(own, list):
        return own
    said = parent.get("unverified") or []
    kept = [name for each in said for name in _kept(str(each), parent, fresh, known)] if isinstance(said, list) else []
    return [*kept, *(name for name in own or [] if name not in kept)]


def _kept(said: str, parent: Data, fresh: frozenset[str], known: set[str]) -> Iterator[str]:
    """`said` itself, or those of its figures that the child leaves as they are."""
    covered = [name for name in _leaves(parent) if covers(said, name)]
    kept = [name for name in covered if name not in fresh and name in known]
    yield from [said] if kept == covered else kept
