"""Results on disk by what they depend on, so that what was measured once is not measured again.

One small JSON file a result, whole or not at all, its name a hash over everything that decides it. So a sweep that was
killed goes on where it stopped, several may share a folder, and whatever changes is measured anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from avcompress.files import write_atomically
from avcompress.search.pool import Pool
from avcompress.spec import Track, untracked

T = TypeVar("T")


@dataclass(frozen=True)
class Cache:
    """A folder of results: whatever JSON holds."""

    folder: Path

    def get(self, key: str) -> Any:
        """The result of a key; None where there is none, or its file is damaged."""
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8"))["result"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, result: Any) -> None:
        """Keep a result, never None."""
        write_atomically(self._path(key), json.dumps({"result": result}))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def sweep(
    work: Callable[[T], Any],
    tasks: Sequence[T],
    keys: Sequence[str],
    cache: Cache,
    pool: Pool,
    track: Track = untracked,
) -> list[Any]:
    """The result of every task, in order: of those that were done before from the cache, each other as it is done.

    Args:
        work: gives what JSON holds, for each task by itself.
        tasks: what is to be done.
        keys: of the tasks: what decides their results, by `avcompress.state.step_key`.
        cache: keeps each result as soon as it is there.
        pool: does the tasks.
        track: watches them.
    """
    found = [cache.get(key) for key in keys]
    missing = [number for number, result in enumerate(found) if result is None]
    if missing:
        results = pool.results(work, [tasks[number] for number in missing])
        for place, result in track(results, len(missing)):
            number = missing[place]
            cache.put(keys[number], result)
            found[number] = cache.get(keys[number])  # as it will be the next time
    return found
