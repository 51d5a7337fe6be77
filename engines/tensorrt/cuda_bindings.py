"""CUDA by NVIDIA's cuda-bindings, or the cuda-python before it: the runtime API, CUDA 12 and 13.

Every function returns a tuple that begins with the error code; handles are accepted as integers.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from avcompress.spec import Array, MissingError
from engines.session import one_line
from engines.tensorrt.cuda import STICKY, CudaError, Handle, version_text
from engines.tensorrt.device import Device

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
_INSTALL = "pip install cuda-bindings"


def open_cuda_bindings(device: int = 0) -> CudaBindings:
    """The device by cuda-bindings; raises MissingError where the package, the driver or the device is not there."""
    runtime = _runtime()
    try:
        return CudaBindings(runtime, device)
    except Exception as error:  # without libcuda the versions raise different errors
        reason = error.error if isinstance(error, CudaError) else one_line(error)
        raise MissingError(
            f"cuda-bindings: expected a driver and device {device}, got: {reason}; install NVIDIA's driver, "
            "or run on the machine with the GPU"
        ) from error


def _runtime() -> Any:
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise MissingError(f"cuda-bindings: expected the package, got nothing of that name; {_INSTALL}")


class CudaBindings:
    """See Cuda."""

    package = "cuda-bindings"
    has_graphs = True

    def __init__(self, runtime: Any, device: int) -> None:
        self._rt = runtime
        self._device = device
        count = self._call("cudaGetDeviceCount")
        if not 0 <= device < count:
            raise MissingError(f"expected device {device}, got {count} devices")
        self._call("cudaSetDevice", device)
        self._to_device = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._to_host = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost

    def _call(self, name: str, *arguments: Any) -> Any:
        """What the function returns besides its code: nothing, a value, or a list of them."""
        code, *values = getattr(self._rt, name)(*arguments)
        if int(code):
            # The code stays the thread's last error, which TensorRT might take for its own, until it is asked for.
            self._rt.cudaGetLastError()
            raise CudaError(name, f"{code.name} ({int(code)})", int(code) in STICKY)
        return values[0] if len(values) == 1 else values

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See Cuda; the thread gets its former device back."""
        before = self._call("cudaGetDevice")
        self._call("cudaSetDevice", self._device)
        try:
            yield
        finally:
            if before != self._device:
                self._rt.cudaSetDevice(before)  # its error would hide the one on the way

    def device(self) -> Device:
        """See Cuda."""
        attributes = self._rt.cudaDeviceAttr
        major, minor = (
            self._call("cudaDeviceGetAttribute", attribute, self._device)
            for attribute in (
                attributes.cudaDevAttrComputeCapabilityMajor,
                attributes.cudaDevAttrComputeCapabilityMinor,
            )
        )
        name = self._call("cudaGetDeviceProperties", self._device).name
        return Device(
            name=name.decode(errors="replace").rstrip("\0"),
            compute_capability=f"{major}.{minor}",
            driver=version_text(self._call("cudaDriverGetVersion")),
        )

    def allocate(self, size_bytes: int) -> int:
        """See Cuda."""
        return int(self._call("cudaMalloc", size_bytes))

    def free(self, address: int) -> None:
        """See Cuda."""
        self._call("cudaFree", address)

    def allocate_pinned(self, size_bytes: int) -> Array:
        """See Cuda."""
        address = int(self._call("cudaHostAlloc", size_bytes, self._rt.cudaHostAllocDefault))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))

    def free_pinned(self, array: Array) -> None:
        """See Cuda."""
        self._call("cudaFreeHost", array.ctypes.data)

    def make_stream(self, high_priority: bool) -> int:
        """See Cuda."""
        least, greatest = self._call("cudaDeviceGetStreamPriorityRange")
        priority = greatest if high_priority else least
        return int(self._call("cudaStreamCreateWithPriority", self._rt.cudaStreamNonBlocking, priority))

    def destroy_stream(self, stream: int) -> None:
        """See Cuda."""
        self._call("cudaStreamDestroy", stream)

    def copy_to_device(self, address: int, array: Array, stream: int) -> None:
        """See Cuda."""
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, self._to_device, stream)

    def copy_to_host(self, array: Array, address: int, stream: int) -> None:
        """See Cuda."""
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, self._to_host, stream)

    def synchronize(self, stream: int) -> None:
        """See Cuda."""
        self._call("cudaStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        """See Cuda."""
        # Thread-local: what other threads allocate meanwhile does not spoil the recording.
        self._call("cudaStreamBeginCapture", stream, self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

    def end_capture(self, stream: int) -> Handle:
        """See Cuda."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            # Not cudaGraphInstantiate, whose arguments changed with CUDA 12.
            return self._call("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._rt.cudaGraphDestroy(graph)

    def abandon_capture(self, stream: int) -> None:
        """See Cuda."""
        code, graph = self._rt.cudaStreamEndCapture(stream)
        if int(code):
            self._rt.cudaGetLastError()
        else:
            self._rt.cudaGraphDestroy(graph)

    def launch_graph(self, graph: Handle, stream: int) -> None:
        """See Cuda."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Handle) -> None:
        """See Cuda."""
        self._call("cudaGraphExecDestroy", graph)

    def make_event(self) -> Handle:
        """See Cuda."""
        return self._call("cudaEventCreate")

    def record_event(self, event: Handle, stream: int) -> None:
        """See Cuda."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, first: Handle, second: Handle) -> float:
        """See Cuda."""
        return float(self._call("cudaEventElapsedTime", first, second))

    def destroy_event(self, event: Handle) -> None:
        """See Cuda."""
        self._call("cudaEventDestroy", event)
