"""From the bytes of an engine to something that executes, in one place for TensorRT 8.5 to 11 and TensorRT-RTX."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from avcompress.spec import EngineError
from engines.session import one_line
from engines.tensorrt.plugins import register_plugins
from engines.tensorrt.refusals import MISLEADING

_KEPT_LINES = 8
_REMEDIES = (
    ("blobSize", "it is truncated, or more was written behind it: copy it again"),
    ("empty memory buffer", "it is empty: copy it again"),
    (
        "EXPECTED_MAGIC_TAG",
        "it is no engine of this TensorRT: give the file that the builder wrote, or build it again here",
    ),
    ("driver version is insufficient", "this TensorRT needs a GPU, and a driver as new as itself: look at nvidia-smi"),
    ("incompatible device", "it was built on another GPU: build it again on this one"),
    ("compute capab", "it was built for other GPUs: build it again for this one"),
    ("not compatible with this version", "it was built by another TensorRT: build it again with this one, {version}"),
    ("ersion tag does not match", "it was built by another TensorRT: build it again with this one, {version}"),
    ("newer plan file", "it was built by another TensorRT: build it again with this one, {version}"),
    ("agic tag does not match", "it is no TensorRT engine: give the file that the builder wrote"),
    ("lugin", "it needs a plugin: load the plugin's library first, or replace the operator"),
    ("ut of memory", "free memory on the GPU"),
)
_DEFAULT_REMEDY = "it may be truncated, or of another TensorRT or GPU: copy it, or build it again here with {version}"


class RuntimeSettings(Protocol):
    """What a runtime is told before it loads an engine; see TrtSettings."""

    @property
    def dla_core(self) -> int | None: ...  # noqa: D102

    @property
    def graphs(self) -> bool: ...  # noqa: D102

    @property
    def host_code(self) -> bool: ...  # noqa: D102


class Loaded:
    """A runtime, an engine and one execution context, which are given back in the reverse order.

    Raises EngineError with TensorRT's own words, and with the remedy for another version or another GPU.

    Attributes:
        context: what executes.
    """

    def __init__(self, trt: Any, plan: bytes, settings: RuntimeSettings, where: str) -> None:
        self._trt = trt
        self._profiler: Any = None
        self._log = logger_of(trt)
        self._log.take()
        self._runtime: Any = _runtime(trt, self._log, where)
        if settings.dla_core is not None:
            self._runtime.DLA_core = settings.dla_core
        if settings.host_code:
            _allow_host_code(self._runtime, str(trt.__version__), where)
        self.engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            self.close()
            raise EngineError(f"{where}: {_refusal(self.said(), str(trt.__version__))}")
        self.context: Any = _context(trt, self.engine, settings.graphs)
        if self.context is None:
            self.close()
            raise EngineError(
                f"{where}: expected an execution context, got none: {self.said()}; free memory on the GPU"
            )

    def listen(self, hear: Callable[[str, float], None] | None) -> None:
        """Hand each layer's time of every run to `hear`, as (name, ms); None: no more.

        TensorRT then waits for the end of each run itself, since `enqueue_emits_profile` is true from the start.
        """
        if self.context is not None:
            # TensorRT holds no reference: the context would call what is gone.
            self._profiler = None if hear is None else _profiler(self._trt, hear)
            self.context.profiler = self._profiler

    def said(self) -> str:
        """The errors that TensorRT has logged on this thread since it was last asked, in one line."""
        return one_line("; ".join(self._log.take()) or "no word in TensorRT's log")

    def close(self) -> None:
        """Give all back, the context first; a second call does nothing."""
        # Each is destroyed here, since nothing else holds it.
        self.context = None
        self.engine = None
        self._runtime = None


def _runtime(trt: Any, log: Any, where: str) -> Any:
    register_plugins(trt, log)
    try:
        return trt.Runtime(log)
    except TypeError as error:  # the bindings' word for a null pointer
        raise EngineError(
            f"{where}: expected a TensorRT runtime, got: {one_line('; '.join(log.take()) or error)}; look whether "
            "this TensorRT fits the driver"
        ) from error


def _allow_host_code(runtime: Any, version: str, where: str) -> None:
    if not hasattr(runtime, "engine_host_code_allowed"):
        raise EngineError(
            f"{where}: expected a TensorRT of 8.6 or later for an engine that brings its runtime, got {version}; build "
            "the engine again with this one"
        )
    runtime.engine_host_code_allowed = True


def _context(trt: Any, engine: Any, graphs: bool) -> Any:
    # TensorRT-RTX records graphs itself: it knows when its kernels for the shape at hand are ready.
    config = engine.create_runtime_config() if graphs and records_graphs(trt) else None
    if config is None:
        return engine.create_execution_context()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(runtime_config=config)


def records_graphs(trt: Any) -> bool:
    """Whether this TensorRT records CUDA graphs itself: TensorRT-RTX from 1.2 on."""
    return hasattr(trt, "CudaGraphStrategy")


def _refusal(said: str, version: str) -> str:
    remedy = next((advice for mark, advice in _REMEDIES if mark in said), _DEFAULT_REMEDY).format(version=version)
    return f"expected an engine that TensorRT {version} can load, got: {said}; {remedy}"


def _profiler(trt: Any, hear: Callable[[str, float], None]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        """Hands on what it is told."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # super().__init__ leaves the C++ part unmade

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT, once a layer and run."""
            hear(layer_name, ms)

    return Profiler()


@functools.cache
def logger_of(trt: Any) -> Any:
    """The one logger of the process: TensorRT keeps the first that it is given, and would call one that is gone."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps the last errors, by thread."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # super().__init__ leaves the C++ part unmade
            self._heard = threading.local()

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            bad = severity in {trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR}
            if bad and MISLEADING not in message:
                self._lines().append(one_line(message))

        def take(self) -> list[str]:
            """The lines of this thread since it last took them."""
            lines = list(self._lines())
            self._lines().clear()
            return lines

        def _lines(self) -> deque[str]:
            lines: deque[str] | None = getattr(self._heard, "lines", None)
            if lines is None:
                lines = self._heard.lines = deque(maxlen=_KEPT_LINES)
            return lines

    return Logger()
