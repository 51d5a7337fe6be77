"""How long a search has been at work, in a file that is renewed meanwhile: what was killed has taken its time, too."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from avcompress.files import write_atomically
from avcompress.spec import OutputError

SPENT = "spent_s.txt"
_EVERY_S = 5.0


@contextlib.contextmanager
def counted(out: Path) -> Iterator[float]:
    """Add the seconds of the block to the file in a folder; yields those of the commands before."""
    before, start, ended = _spent(out), time.monotonic(), threading.Event()

    def write() -> None:
        with contextlib.suppress(OutputError):  # a full disk ends the search elsewhere, and in words
            write_atomically(out / SPENT, f"{before + time.monotonic() - start:.3f}\n")

    def count() -> None:
        while not ended.wait(_EVERY_S):
            write()

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield before
    finally:
        ended.set()
        thread.join()
        write()


def _spent(out: Path) -> float:
    try:
        return float((out / SPENT).read_text())
    except (OSError, ValueError):
        return 0.0
