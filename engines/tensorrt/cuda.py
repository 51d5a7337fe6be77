"""The CUDA calls that a TensorRT session makes, whichever package makes them: cuda-bindings or pycuda."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from avcompress.spec import Array, EngineError, MissingError
from engines.tensorrt.device import Device

Handle = object
"""A graph or an event, as the package has it; nobody but the package looks inside."""

STICKY = frozenset({214, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911})
"""Codes of errors after which every later call of the process fails; the driver API and the runtime share them.

Source: the CUDA runtime API's cudaError_t, "the process must be terminated and relaunched"; 214 is an ECC error that
could not be corrected: what the memory holds is wrong.
"""


class CudaError(EngineError):
    """A CUDA call failed.

    Attributes:
        error: its name or text.
        sticky: the device is lost to this process: every later call fails the same way.
    """

    def __init__(self, call: str, error: str, sticky: bool) -> None:
        advice = "try again"
        if sticky:
            advice = "end the process and start it anew: the GPU is lost to it"
        elif "emory" in error:  # cudaErrorMemoryAllocation, or pycuda's "out of memory"
            advice = "free memory on the GPU, or build the engine for smaller shapes"
        super().__init__(f"{call}: expected success, got {error}; {advice}")
        self.error, self.sticky = error, sticky


class Cuda(Protocol):
    """One device. Addresses, streams: integers, as TensorRT takes them. What fails raises CudaError."""

    @property
    def package(self) -> str:
        """What makes the calls."""
        ...

    @property
    def has_graphs(self) -> bool:
        """Whether work can be captured as a CUDA graph."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Make the device this thread's own; every other call belongs inside."""
        ...

    def device(self) -> Device:
        """What the device is."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """Device memory; the address."""
        ...

    def free(self, address: int) -> None:
        """Give device memory back."""
        ...

    def allocate_pinned(self, size_bytes: int) -> Array:
        """Page-locked host memory, uint8: copies from and to it run beside the host."""
        ...

    def free_pinned(self, array: Array) -> None:
        """Give page-locked memory back; the array, and every view of it, is invalid from then on."""
        ...

    def make_stream(self, high_priority: bool) -> int:
        """A stream that does not wait for the default one; of the highest priority where the package has priorities."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        ...

    def copy_to_device(self, address: int, array: Array, stream: int) -> None:
        """Start to copy a page-locked array to the device."""
        ...

    def copy_to_host(self, array: Array, address: int, stream: int) -> None:
        """Start to copy from the device into a page-locked array."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait for all that was submitted; errors of the work itself come out here."""
        ...

    def begin_capture(self, stream: int) -> None:
        """Record what is submitted to the stream from now on, instead of running it."""
        ...

    def end_capture(self, stream: int) -> Handle:
        """The recorded work as a graph that can be launched."""
        ...

    def abandon_capture(self, stream: int) -> None:
        """Leave the recording, whatever came of it; never raises."""
        ...

    def launch_graph(self, graph: Handle, stream: int) -> None:
        """Submit a graph."""
        ...

    def destroy_graph(self, graph: Handle) -> None:
        """Give a graph back."""
        ...

    def make_event(self) -> Handle:
        """An event that keeps time."""
        ...

    def record_event(self, event: Handle, stream: int) -> None:
        """Stamp the event when the stream gets there."""
        ...

    def elapsed_ms(self, first: Handle, second: Handle) -> float:
        """Milliseconds between two events that have passed."""
        ...

    def destroy_event(self, event: Handle) -> None:
        """Give an event back."""
        ...


def open_cuda(device: int = 0) -> Cuda:
    """The first package that reaches the device: cuda-bindings, else pycuda.

    This is also the check that must come before any touch of TensorRT, whose runtime crashes the process where there
    is no device. Raises MissingError.
    """
    from engines.tensorrt.cuda_bindings import open_cuda_bindings
    from engines.tensorrt.pycuda import open_pycuda

    try:
        return open_cuda_bindings(device)
    except MissingError as first:
        try:
            return open_pycuda(device)
        except MissingError as second:
            raise MissingError(
                f"CUDA device {device}: expected one that can be used, got: {first}; {second}"
            ) from second


def version_text(number: int) -> str:
    """A CUDA version as people write it: 12060 is CUDA 12.6."""
    return f"CUDA {number // 1000}.{number % 1000 // 10}"
