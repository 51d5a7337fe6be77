"""Which bundles a node loads, and what they must have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from avcompress.spec import EngineError
from engines.bundle import Trust
from engines.signing import load_public_key
from ros_nodes.core.served import Served
from ros_nodes.core.settings import Settings, limits

Load = Callable[[Path, Trust, int, int], Served]
"""Folder, trust, images in a batch at most, warm-up runs: see served.load_served."""


class Pair(NamedTuple):
    """What a node is configured with."""

    primary: Served
    fallback: Served | None


def load_pair(settings: Settings, load: Load) -> Pair:
    """Load the bundle and the one to fall back to; on any failure nothing stays open.

    Raises what `load` raises, EngineError where the two give different things, and RecipeError without a deadline.
    """
    with contextlib.ExitStack() as undo:
        primary = load_one(settings, load, Path(settings.bundle))
        undo.callback(primary.session.close)
        limits(settings, primary.manifest)
        fallback = None
        if settings.fallback is not None:
            # Of another recipe, whose revisions are its own.
            trust = replace(_trust(settings), name=None, min_revision=0)
            fallback = load(Path(settings.fallback), trust, _batch(settings), settings.warmup)
            undo.callback(fallback.session.close)
            refuse_other_classes("fallback", primary, fallback)
        undo.pop_all()
    return Pair(primary, fallback)


def load_one(settings: Settings, load: Load, folder: Path) -> Served:
    """Load a bundle as the settings trust it; raises what `load` raises."""
    return load(folder, _trust(settings), _batch(settings), settings.warmup)


def _trust(settings: Settings) -> Trust:
    keys = tuple(load_public_key(Path(path)) for path in settings.keys)
    return Trust(keys, settings.allow_unsigned, settings.bundle_name, settings.min_revision)


def _batch(settings: Settings) -> int:
    return min(settings.max_batch or len(settings.cameras), len(settings.cameras))


def refuse_other_classes(what: str, served: Served, other: Served) -> None:
    """Raise EngineError unless the results of two engines mean the same: one kind, one list of classes."""
    refuse_other_kind(what, served, other)
    if served.manifest.classes != other.manifest.classes:
        raise EngineError(
            f"{what}: expected the classes {', '.join(served.manifest.classes)}, got "
            f"{', '.join(other.manifest.classes)}; give a bundle of the same classes, in the same order"
        )


def refuse_other_kind(what: str, served: Served, other: Served) -> None:
    """Raise EngineError unless both give boxes or both give masks: a topic has one type."""
    if served.task.kind != other.task.kind:
        raise EngineError(
            f"{what}: expected a bundle for {served.task.kind}, got one for {other.task.kind}; start a node of its own"
        )
