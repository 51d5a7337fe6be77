"""Finished steps of a run on disk, so that a killed run goes on where it stopped.

A step writes files into a folder; the folder appears under `state/` only when it is whole. Its key is a hash over its
settings and the keys of the steps before it: a changed recipe repeats just the steps that the change concerns.
A resumed run and an uninterrupted one take the same road: results are always read back from the folder.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from avcompress import __version__
from avcompress.files import atomic_folder, sha256_file, write_atomically
from avcompress.step_cache import StepCache, link_folder

RECORD = "step.json"


def step_key(*parts: Any) -> str:
    """sha256 over the parts as canonical JSON and over this version of avcompress."""
    text = json.dumps([__version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class _Record(BaseModel):
    """What is known of a finished step: the files are named with their sha256."""

    key: str
    seconds: float
    files: dict[str, str]


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder, by its path there; a step's own record is left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(files)}


@dataclass(frozen=True)
class State:
    """The steps that a run in this folder has finished.

    Attributes:
        folder: holds them by name.
        cache: steps that this run and others share; None where it keeps to itself.
    """

    folder: Path
    cache: StepCache | None = None

    def seconds(self, name: str, key: str) -> float | None:
        """How long the finished step `name` took.

        None where it is not finished, here or in the cache, was with another key, or its files are no longer those
        that it wrote.
        """
        own = _finished(self.folder / name, key)
        return own if own is not None or self.cache is None else _finished(self.cache.place(name, key), key)

    def is_whole(self, name: str) -> bool:
        """Whether a step is finished, with any key, and its files are those that it wrote."""
        try:
            record = _Record.model_validate_json((self.folder / name / RECORD).read_bytes())
            return record.files == hashes(self.folder / name)
        except (OSError, ValueError):
            return False

    def step(self, name: str, key: str, compute: Callable[[Path], None]) -> Path:
        """Return the step's folder, after `compute` has filled it where it was not finished with the same key."""
        final = self.folder / name
        if _finished(final, key) is not None:
            return final
        if self.cache is None:
            _take(final, key, compute)
            return final
        with self.cache.held(name, key):
            shared = self.cache.place(name, key)
            if _finished(shared, key) is not None:
                link_folder(shared, final)
            else:
                _take(final, key, compute)
                link_folder(final, shared)
        return final


def _finished(folder: Path, key: str) -> float | None:
    """How long the step in this folder took; None where it is not whole, or has another key."""
    try:
        record = _Record.model_validate_json((folder / RECORD).read_bytes())
        whole = record.key == key and record.files == hashes(folder)
    except (OSError, ValueError):
        return None
    return record.seconds if whole else None


def _take(final: Path, key: str, compute: Callable[[Path], None]) -> None:
    start = time.monotonic()
    with atomic_folder(final) as folder:
        compute(folder)
        seconds = round(time.monotonic() - start, 3)
        record = _Record(key=key, seconds=seconds, files=hashes(folder))
        write_atomically(folder / RECORD, record.model_dump_json(indent=1))
