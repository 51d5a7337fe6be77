"""Memory of a session: for each tensor a piece on the device, and its page-locked twin on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import numpy as np

from avcompress.spec import Array
from engines.tensorrt.cuda import Cuda

_NOTHING = np.empty(0, np.uint8)


class Buffer:
    """Device memory and its twin, of one size."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.address = 0
        self.host: Array = _NOTHING

    def grow(self, size_bytes: int) -> None:
        """Make room for `size_bytes`; what was in it is lost where it grows, and the address is another."""
        if size_bytes <= self.host.nbytes and self.address:
            return
        self.close()
        self.address = self._cuda.allocate(max(size_bytes, 1))
        self.host = self._cuda.allocate_pinned(max(size_bytes, 1))

    def close(self) -> None:
        """Give both back; a second call does nothing."""
        address, self.address = self.address, 0
        host, self.host = self.host, _NOTHING
        try:
            if address:
                self._cuda.free(address)
        finally:
            if host is not _NOTHING:
                self._cuda.free_pinned(host)


def close_all(buffers: Iterable[Buffer]) -> None:
    """Close every buffer, also after one that fails; raises a failure in the end."""
    with contextlib.ExitStack() as stack:
        for buffer in buffers:
            stack.callback(buffer.close)
