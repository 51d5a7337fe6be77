"""A process that ends with the one that started it, however that ended: a killed search leaves no trial behind."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tie(parent: int) -> None:
    """Let this process be asked to end when its parent is gone. Linux alone knows how; elsewhere nothing happens.

    Args:
        parent: its process id, as it says itself: it may have gone before this is called.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
