"""CUDA by pycuda, which older JetPacks have: no CUDA graphs, and no stream priorities.

Source: pycuda 2026.1, src/wrapper/wrap_cudadrv.cpp: `Stream(flags)` takes no priority, and nothing begins a capture.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import numpy as np

from avcompress.spec import Array, MissingError
from engines.session import one_line
from engines.tensorrt.cuda import CudaError, Handle, version_text
from engines.tensorrt.device import Device

T = TypeVar("T")
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


def open_pycuda(device: int = 0) -> PyCuda:
    """The device by pycuda; raises MissingError where the package, the driver or the device is not there."""
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise MissingError(
            f"pycuda: expected the package to load, got: {one_line(error)}; pip install pycuda, beside NVIDIA's CUDA"
        ) from error
    try:
        return PyCuda(driver, device)
    except driver.Error as error:
        raise MissingError(
            f"pycuda: expected a driver and device {device}, got: {one_line(error)}; run on the machine with the GPU"
        ) from error


@functools.cache
def _primary_context(driver: Any, device: int) -> Any:
    """The context that the CUDA runtime, and so TensorRT, uses too; kept until the process ends, as the runtime does.

    Giving it back would leave it current on the thread that did.
    """
    return driver.Device(device).retain_primary_context()


class PyCuda:
    """See Cuda."""

    package = "pycuda"
    has_graphs = False

    def __init__(self, driver: Any, device: int) -> None:
        self._driver = driver
        driver.init()
        if not 0 <= device < driver.Device.count():
            raise MissingError(f"pycuda: expected device {device}, got {driver.Device.count()} devices")
        self._device = driver.Device(device)
        self._context = _primary_context(driver, device)
        # pycuda frees what it made when the last reference goes.
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def _call(self, name: str, function: Callable[[], T]) -> T:
        try:
            return function()
        except self._driver.Error as error:
            raise CudaError(name, one_line(error), self._is_lost()) from error

    def _is_lost(self) -> bool:
        """Whether the error was a sticky one: pycuda tells no code, but after those every call fails."""
        try:
            self._driver.Context.synchronize()
        except self._driver.Error:
            return True
        return False

    @contextmanager
    def current(self) -> Iterator[None]:
        """See Cuda. A thread that ends with a context of pycuda's takes the process with it, so it is always popped."""
        self._call("push", self._context.push)
        try:
            yield
        finally:
            self._driver.Context.pop()

    def device(self) -> Device:
        """See Cuda."""
        major, minor = self._device.compute_capability()
        return Device(self._device.name(), f"{major}.{minor}", version_text(self._driver.get_driver_version()))

    def allocate(self, size_bytes: int) -> int:
        """See Cuda."""
        allocation = self._call("mem_alloc", lambda: self._driver.mem_alloc(size_bytes))
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """See Cuda."""
        self._call("free", self._allocations.pop(address).free)

    def allocate_pinned(self, size_bytes: int) -> Array:
        """See Cuda."""
        array: Array = self._call("pagelocked_empty", lambda: self._driver.pagelocked_empty((size_bytes,), np.uint8))
        return array

    def free_pinned(self, array: Array) -> None:
        """See Cuda."""
        allocation: Any = array.base
        self._call("free", allocation.free)

    def make_stream(self, high_priority: bool) -> int:  # noqa: ARG002 - see the head of this file
        """See Cuda."""
        stream = self._call("Stream", lambda: self._driver.Stream(_NON_BLOCKING))
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """See Cuda."""
        del self._streams[stream]

    def copy_to_device(self, address: int, array: Array, stream: int) -> None:
        """See Cuda."""
        self._call("memcpy_htod_async", lambda: self._driver.memcpy_htod_async(address, array, self._streams[stream]))

    def copy_to_host(self, array: Array, address: int, stream: int) -> None:
        """See Cuda."""
        self._call("memcpy_dtoh_async", lambda: self._driver.memcpy_dtoh_async(array, address, self._streams[stream]))

    def synchronize(self, stream: int) -> None:
        """See Cuda."""
        self._call("synchronize", self._streams[stream].synchronize)

    def begin_capture(self, stream: int) -> None:  # noqa: ARG002
        """Refuse; see `has_graphs`."""
        _no_graphs()

    def end_capture(self, stream: int) -> Handle:  # noqa: ARG002
        """Refuse; see `has_graphs`."""
        _no_graphs()

    def abandon_capture(self, stream: int) -> None:
        """Do nothing: there is no capture to leave."""

    def launch_graph(self, graph: Handle, stream: int) -> None:  # noqa: ARG002
        """Refuse; see `has_graphs`."""
        _no_graphs()

    def destroy_graph(self, graph: Handle) -> None:  # noqa: ARG002
        """Refuse; see `has_graphs`."""
        _no_graphs()

    def load_module(self, code: bytes) -> Any:
        """Machine code as pycuda has it; unloaded with the last reference."""
        return self._call("module_from_buffer", lambda: self._driver.module_from_buffer(code))

    def launch(self, function: Any, blocks: int, threads: int, arguments: Sequence[Any], stream: int) -> None:
        """Submit a function of a module: `blocks` of `threads` threads each."""
        shape = {"grid": (blocks, 1), "block": (threads, 1, 1), "stream": self._streams[stream]}
        self._call("launch", lambda: function(*arguments, **shape))

    def make_event(self) -> Handle:
        """See Cuda."""
        return self._call("Event", self._driver.Event)

    def record_event(self, event: Any, stream: int) -> None:
        """See Cuda."""
        self._call("record", lambda: event.record(self._streams[stream]))

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """See Cuda."""
        return float(self._call("time_till", lambda: first.time_till(second)))

    def destroy_event(self, event: Handle) -> None:
        """Do nothing: pycuda destroys it with its last reference."""


def _no_graphs() -> NoReturn:
    raise CudaError("pycuda", "no CUDA graphs in this package", sticky=False)
