"""Several arrays behind each other in one piece of device memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from avcompress.spec import Array
from engines.tensorrt.buffers import Buffer
from engines.tensorrt.cuda import Cuda

_ALIGNMENT = 256  # bytes: each array begins as cudaMalloc would have it


class Parts:
    """Arrays of fixed shapes on the device, and their page-locked twins on the host; addresses stay the same."""

    def __init__(self, cuda: Cuda, arrays: Mapping[str, Array]) -> None:
        self._cuda, self._buffer, self._arrays = cuda, Buffer(cuda), dict(arrays)
        self._offsets: dict[str, int] = {}
        end = 0
        for name, array in arrays.items():
            self._offsets[name] = end
            end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        self._size = end

    def allocate(self) -> None:
        """Make room on both sides, and put the arrays into the twins."""
        self._buffer.grow(self._size)
        for name, array in self._arrays.items():
            np.copyto(self.array(name), array)

    def address(self, name: str) -> np.uint64:
        """Where an array is on the device."""
        address: np.uint64 = np.uint64(self._buffer.address + self._offsets[name])
        return address

    def array(self, name: str) -> Array:
        """An array's twin; no copy."""
        array, start = self._arrays[name], self._offsets[name]
        return self._buffer.host[start : start + array.nbytes].view(array.dtype).reshape(array.shape)

    def upload(self, stream: int) -> None:
        """Start to copy all to the device."""
        self._cuda.copy_to_device(self._buffer.address, self._buffer.host, stream)

    def download(self, stream: int) -> None:
        """Start to copy all to the host."""
        self._cuda.copy_to_host(self._buffer.host, self._buffer.address, stream)

    def close(self) -> None:
        """Give both back; a second call does nothing."""
        self._buffer.close()
