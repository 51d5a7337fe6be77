"""ONNX Runtime: on the CPU the numeric reference, and the float network's runtime; by other providers where asked."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np

from avcompress.recipe import OrtEngine, OrtProvider
from avcompress.spec import Array, EngineBuildError, EngineError, MissingError
from engines.built import MODEL, Built
from engines.network import read_network
from engines.ort_dialect import with_float_kernels
from engines.session import InputSpec, check_inputs, closed, one_line

CPU = "CPUExecutionProvider"
REFERENCE = OrtEngine(backend="ort")
"""On the CPU, every operator as ONNX defines it."""
Provider = str | OrtProvider
"""An execution provider, by its name or with options."""

_FATAL = 4  # errors come as exceptions; the log would only repeat them
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def require_providers(providers: Iterable[Provider]) -> None:
    """Raise MissingError for an execution provider that this build of ONNX Runtime does not have."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    for name in _names(providers):
        if name not in available:
            raise MissingError(
                f"ort, providers: expected one of {', '.join(available)}, got {name}; install the build of ONNX "
                "Runtime that has it, such as onnxruntime-gpu or onnxruntime-openvino, in place of onnxruntime"
            )


def _names(providers: Iterable[Provider]) -> list[str]:
    return [provider if isinstance(provider, str) else provider.name for provider in providers]


def open_ort(
    path: Path, optimize: bool = False, threads: int | None = None, providers: Sequence[Provider] = (CPU,)
) -> OrtSession:
    """Load an ONNX file.

    Args:
        path: an .onnx file.
        optimize: all graph optimizations. Off, every operator is computed as ONNX defines it: with them on, networks
            with Q/DQ differ by up to some per cent.
        threads: of one run; default: all cores.
        providers: the preferred one first; the CPU takes the operators that the others leave.

    Raises EngineError when ONNX Runtime refuses the file, MissingError for a provider that is not there or does not
    load.
    """
    import onnxruntime

    require_providers(providers)
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_pairs(providers), enable_fallback=0)
        _refuse_fallback(session, providers)
        return OrtSession(session, f"ort, {path.name}")
    except MissingError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base but this
        raise EngineError(
            f"{path}: expected a network that ONNX Runtime can load, got: {one_line(error)}; mend or export it again"
        ) from error


def _pairs(providers: Iterable[Provider]) -> list[tuple[str, dict[str, str | int | float | bool]]]:
    return [(p, {}) if isinstance(p, str) else (p.name, dict(p.options)) for p in providers]


def _refuse_fallback(session: Any, providers: Iterable[Provider]) -> None:
    """Raise MissingError when ONNX Runtime has quietly left out a provider; it must not do so later either."""
    session.disable_fallback()  # what `enable_fallback=0` says, to versions that do not know it
    loaded = session.get_providers()
    for name in _names(providers):
        if name not in loaded:
            raise MissingError(
                f"ort, providers: expected {name} to load, got only {', '.join(loaded)}; install the libraries that it "
                "needs: ONNX Runtime has printed which one it did not find"
            )


def build_ort(onnx: Path, folder: Path, settings: OrtEngine = REFERENCE) -> Built:
    """Copy the network into `folder` as model.onnx, and load it once; raises EngineBuildError, MissingError.

    On the CPU alone, FP16 and BF16 operators are computed in FP32, each result rounded to its type; other providers
    get the network as it is.
    """
    import onnxruntime

    start = time.monotonic()
    network = read_network(onnx)
    target = folder / MODEL["ort"]
    on_cpu = set(_names(settings.providers)) == {CPU}
    runnable = with_float_kernels(network) if on_cpu else network
    if runnable is network:
        shutil.copyfile(onnx, target)
    else:
        target.write_bytes(runnable.SerializeToString())
    try:
        open_ort(target, settings.optimize, settings.threads, settings.providers).close()
    except EngineError as error:
        raise EngineBuildError("load", str(error)) from error
    return Built(
        backend="ort",
        folder=folder,
        files=(target.name,),
        seconds=time.monotonic() - start,
        size_bytes=target.stat().st_size,
        precisions=None,
        runs_here=True,
        versions={"onnxruntime": onnxruntime.__version__},
        note=_note(settings),
    )


def _note(settings: OrtEngine) -> str:
    if settings.is_reference:
        return "graph optimizations off: the numeric reference, not a measure of speed"
    return f"{', '.join(_names(settings.providers))}; graph optimizations {'on' if settings.optimize else 'off'}"


class OrtSession:
    """An ONNX Runtime session."""

    def __init__(self, session: Any, where: str) -> None:
        self._session = session
        self._where = where
        self._specs = {value.name: _spec(value) for value in session.get_inputs()}
        self.inputs: Mapping[str, tuple[int, ...]] = MappingProxyType({n: s.shape for n, s in self._specs.items()})
        self.outputs = tuple(value.name for value in session.get_outputs())
        self._names = list(self.outputs)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; see Session."""
        if self._session is None:
            raise closed(self._where)
        check_inputs(self._where, self._specs, inputs)
        try:
            results = self._session.run(self._names, dict(inputs))
        except Exception as error:  # ONNX Runtime's errors share no base but this
            raise EngineError(f"{self._where}: expected a run, got: {one_line(error)}; check the network") from error
        return dict(zip(self._names, results, strict=True))

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _spec(value: Any) -> InputSpec:
    if value.type not in _DTYPES:
        raise EngineError(f"input {value.name!r}: expected a plain array, got {value.type}; export the network again")
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return InputSpec(shape, np.dtype(_DTYPES[value.type]))
