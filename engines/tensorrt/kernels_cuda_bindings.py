"""Kernels by cuda-bindings: NVRTC compiles, the driver API loads and launches.

Every function returns a tuple that begins with the error code.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from avcompress.spec import MissingError
from engines.session import one_line
from engines.tensorrt.cuda import STICKY, CudaError
from engines.tensorrt.kernels import OPTION, Argument, refused

_NVRTC = ("cuda.bindings.nvrtc", "cuda.nvrtc")
_DRIVER = ("cuda.bindings.driver", "cuda.cuda")
_INSTALL = "pip install nvidia-cuda-nvrtc, or install NVIDIA's CUDA"


def compile_by_nvrtc(source: str, architecture: str) -> bytes:
    """Machine code for one architecture, such as sm_87; needs no GPU. Raises MissingError, EngineError."""
    nvrtc = _module(_NVRTC)
    try:
        # The first touch of the library.
        _, program = _nvrtc(nvrtc.nvrtcCreateProgram, source.encode(), b"postprocess.cu", 0, [], [])
    except Exception as error:  # without the library the versions raise different errors
        raise MissingError(f"NVRTC: expected the library to load, got: {one_line(error)}; {_INSTALL}") from error
    try:
        options = [f"--gpu-architecture={architecture}".encode(), OPTION.encode()]
        code, _ = _nvrtc(nvrtc.nvrtcCompileProgram, program, len(options), options)
        if code:
            log = _filled(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise refused("NVRTC", architecture, log.decode(errors="replace").rstrip("\0") or f"error {code}")
        return _filled(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _module(names: tuple[str, ...]) -> Any:
    for name in names:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise MissingError(f"{names[0]}: expected the package, got nothing of that name; pip install cuda-bindings")


def _nvrtc(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """The code, and the value where there is one."""
    code, *values = function(*arguments)
    return int(code), values[0] if values else None


def _filled(size_of: Callable[..., Any], fill: Callable[..., Any], program: Any) -> bytes:
    _, size = _nvrtc(size_of, program)
    # Written over in place, as the package asks for; a bytes object of one byte would be shared by all of Python.
    buffer = b" " * (int(size) + 1)
    fill(program, buffer)
    return buffer[:-1]


class CudaBindingsKernels:
    """See Kernels."""

    def __init__(self, code: bytes) -> None:
        self._driver = _module(_DRIVER)
        self._functions: dict[str, Any] = {}
        self._module: Any = None
        image = np.frombuffer(code, np.uint8)
        self._module = self._call("cuModuleLoadData", image.ctypes.data)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._driver, name)(*arguments)
        if int(code):
            raise CudaError(name, f"{code.name} ({int(code)})", int(code) in STICKY)
        return values[0] if values else None

    def launch(self, name: str, blocks: int, threads: int, arguments: Sequence[Argument], stream: int) -> None:
        """See Kernels."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._call("cuModuleGetFunction", self._module, name.encode())
        # The driver reads the values by their addresses, before it returns.
        values = [np.array(argument) for argument in arguments]
        places = np.array([value.ctypes.data for value in values], np.uint64)
        self._call("cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, 0, stream, places.ctypes.data, 0)

    def close(self) -> None:
        """See Kernels."""
        module, self._module = self._module, None
        if module is not None:
            self._call("cuModuleUnload", module)
