"""`python -m avcompress` and the installed command: light, so that Ctrl-C is answered from the first moment on."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType


def main() -> None:
    """Load the command line and run it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _leave)
    from avcompress.cli import main as command_line

    command_line()


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Nothing is under way yet: an exception would only get lost in an import."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted: before the work began\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
