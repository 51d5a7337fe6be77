"""Finished steps that several runs share: what one of them has computed, the others take.

A step is kept under its key, whatever its place in a recipe is, and is taken by hard links: a folder of state may be
removed, and the cache too, without harm to the other. Two runs that need the same step at once compute it once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from avcompress.files import atomic_folder, make_folder

LOCKS = "locks"


@dataclass(frozen=True)
class StepCache:
    """A folder of finished steps."""

    folder: Path

    def place(self, name: str, key: str) -> Path:
        """Where a step lies, or would; its number in the recipe is no part of it."""
        kind = re.sub(r"^\d+-", "", name)
        return self.folder / hashlib.sha256(f"{kind} {key}".encode()).hexdigest()

    @contextlib.contextmanager
    def held(self, name: str, key: str) -> Iterator[None]:
        """Keep all others from computing the same step until the block ends; the system lets go of it after a kill."""
        lock = self.folder / LOCKS / self.place(name, key).name
        make_folder(lock.parent)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def link_folder(source: Path, target: Path) -> None:
    """Put all files of a folder into another one too, that appears when it is whole; raises OutputError."""
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that has no links
        shutil.copy2(source, target)
