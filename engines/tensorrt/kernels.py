"""CUDA kernels of our own: compiled for the device when they are first needed, and launched by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from avcompress.spec import EngineError
from engines.session import one_line
from engines.tensorrt.cuda import Cuda

Argument = np.generic
"""A number as the kernel has it: np.uint64 for an address, np.int32, np.float32."""

SOURCE = Path(__file__).with_name("postprocess.cu")
OPTION = "-fmad=false"  # as the source asks for: a product is rounded before it is added


class Kernels(Protocol):
    """Compiled kernels. What fails raises CudaError."""

    def launch(self, name: str, blocks: int, threads: int, arguments: Sequence[Argument], stream: int) -> None:
        """Submit one: `blocks` of `threads` threads each."""
        ...

    def close(self) -> None:
        """Give the code's memory back; a second call does nothing."""
        ...


def open_kernels(cuda: Cuda) -> Kernels:
    """Compile the post-processing for the device, by the package that `cuda` is of: NVRTC, or pycuda's nvcc.

    Raises MissingError where the compiler is not there, EngineError where it refuses. Belongs inside `cuda.current()`.
    """
    from engines.tensorrt.cuda_bindings import CudaBindings
    from engines.tensorrt.pycuda import PyCuda

    architecture = "sm_" + cuda.device().compute_capability.replace(".", "")
    if isinstance(cuda, CudaBindings):
        from engines.tensorrt.kernels_cuda_bindings import CudaBindingsKernels, compile_by_nvrtc

        return CudaBindingsKernels(compile_by_nvrtc(SOURCE.read_text(), architecture))
    if isinstance(cuda, PyCuda):
        from engines.tensorrt.kernels_pycuda import PyCudaKernels

        return PyCudaKernels(cuda, SOURCE.read_text(), architecture)
    raise EngineError(f"kernels: expected cuda-bindings or pycuda, got {cuda.package}; post-process on the host")


def refused(compiler: str, architecture: str, said: str) -> EngineError:
    """The error of a compiler that does not compile."""
    return EngineError(
        f"{compiler}: expected the post-processing to compile for {architecture}, got: {one_line(said)}; install a "
        "CUDA that knows this GPU, or post-process on the host"
    )
