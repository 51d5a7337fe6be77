"""Processes that keep the processor busy while something else is measured, and are gone afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from avcompress.spec import MissingError

# Ends by itself when whoever started it is gone, even by SIGKILL: its parent is another process then.
_BUSY = """
import os, sys
parent = int(sys.argv[1])
sys.stdout.write("x")
sys.stdout.flush()
while os.getppid() == parent:
    for _ in range(100000):
        pass
"""
_PATIENCE_S = 5.0


@contextlib.contextmanager
def background_load(processes: int) -> Iterator[None]:
    """Keep so many cores busy within the block, from its first moment on; stopped however the block is left.

    Raises MissingError when a process cannot be started, or did not last until the end: what was measured then was not
    measured under this load.
    """
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(_one()) for _ in range(processes)]
        yield
        ended = sum(process.poll() is not None for process in busy)
        if ended:
            raise MissingError(
                f"background load: expected {processes} busy processes until the end, got {processes - ended}; "
                "somebody stopped them: measure again, with fewer where memory is short"
            )


@contextlib.contextmanager
def _one() -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: Ctrl-C is ours to hear, and we stop it.
    command = [sys.executable, "-I", "-S", "-c", _BUSY, str(os.getpid())]
    try:
        process = subprocess.Popen(  # noqa: S603 (our own interpreter)
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise MissingError(
            f"background load: expected another process, got {error.strerror}; end others, or ask for fewer"
        ) from error
    try:
        if process.stdout is not None:
            process.stdout.read(1)  # it is at work from here on
        yield process
    finally:
        process.kill()
        process.wait(_PATIENCE_S)
        if process.stdout is not None:
            process.stdout.close()
