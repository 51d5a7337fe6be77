"""Kernels by pycuda, which older JetPacks have: nvcc compiles, as pycuda.compiler calls it.

Source: pycuda 2026.1, pycuda/compiler.py and pycuda/driver.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from avcompress.spec import MissingError
from engines.session import one_line
from engines.tensorrt.kernels import OPTION, Argument, refused
from engines.tensorrt.pycuda import PyCuda


class PyCudaKernels:
    """See Kernels."""

    def __init__(self, cuda: PyCuda, source: str, architecture: str) -> None:
        self._cuda = cuda
        driver = importlib.import_module("pycuda.driver")
        compiler = importlib.import_module("pycuda.compiler")
        try:
            code = compiler.compile(source, options=[OPTION], arch=architecture, no_extern_c=True)
        except OSError as error:
            raise MissingError(
                f"nvcc: expected the compiler on PATH, got: {one_line(error)}; install NVIDIA's CUDA compiler"
            ) from error
        except driver.CompileError as error:
            raise refused("nvcc", architecture, str(error)) from error
        self._module: Any = cuda.load_module(code)
        self._functions: dict[str, Any] = {}

    def launch(self, name: str, blocks: int, threads: int, arguments: Sequence[Argument], stream: int) -> None:
        """See Kernels."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._module.get_function(name)
        self._cuda.launch(function, blocks, threads, arguments, stream)

    def close(self) -> None:
        """See Kernels; pycuda unloads the code with the last reference to it."""
        self._functions.clear()
        self._module = None
