"""ONNX Runtime: on the CPU the numeric reference, and the float network's runtime; by other providers where asked."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np

from avcompress.recipe import OrtEngine, OrtProvider
from avcompress.spec import Array, EngineBuildError, EngineError, MissingError
from engines.built import MODEL, Built
from engines.network import read_network, with_weights
from engines.ort_dialect import with_float_kernels
from engines.session import InputSpec, check_inputs, closed, one_line

CPU = "CPUExecutionProvider"
REFERENCE = OrtEngine(backend="ort")
"""On the CPU, every operator as ONNX defines it."""
Provider = str | OrtProvider
"""An execution provider, by its name or with options."""

_RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
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
    path: Path,
    optimize: bool = False,
    threads: int | None = None,
    providers: Sequence[Provider] = (CPU,),
    profile: Path | None = None,
) -> OrtSession:
    """Load an ONNX file.

    Args:
        path: an .onnx file.
        optimize: all graph optimizations. Off, every operator is computed as ONNX defines it: with them on, networks
            with Q/DQ differ by up to some per cent.
        threads: of one run; default: all cores.
        providers: the preferred one first; the CPU takes the operators that the others leave.
        profile: how the file begins that ONNX Runtime writes each operator's times to; see OrtSession.end_profile.

    Raises EngineError when ONNX Runtime refuses the file, or gives all of it to the CPU though others were asked for;
    MissingError for a provider that is not there or does not load.
    """
    import onnxruntime

    require_providers(providers)
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry(_RECORD_ASSIGNMENT, "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_pairs(providers), enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors share no base but this
        advice = "mend or export it again"
        if _others(providers):
            advice = f"see to what {', '.join(_others(providers))} lacks, or leave it out, or mend the network"
        raise EngineError(
            f"{path}: expected a network that ONNX Runtime can load, got: {one_line(error)}; {advice}"
        ) from error
    _refuse_fallback(session, providers)
    return OrtSession(session, f"ort, {path.name}")


def _others(providers: Iterable[Provider]) -> list[str]:
    return [name for name in _names(providers) if name != CPU]


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
    nodes = _nodes_by_provider(session)
    if nodes and _others(providers) and set(nodes) == {CPU}:
        raise EngineError(
            f"ort, providers: expected {', '.join(_others(providers))} to take operators, got all {nodes[CPU]} on "
            f"{CPU}; see to its options and its device, or leave it out"
        )


def _nodes_by_provider(session: Any) -> Mapping[str, int]:
    """How many operators each provider was given; empty where this version does not tell (before 1.24)."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return counts


def build_ort(onnx: Path, folder: Path, settings: OrtEngine = REFERENCE) -> Built:
    """Copy the network into `folder` as model.onnx, with its weights, and load it once.

    On the CPU alone, FP16 and BF16 operators are computed in FP32, each result rounded to its type; other providers
    get the network as it is. Raises EngineBuildError, MissingError.
    """
    import onnxruntime

    start = time.monotonic()
    parsed = read_network(onnx)
    network = with_weights(parsed, onnx)
    target = folder / MODEL["ort"]
    on_cpu = set(_names(settings.providers)) == {CPU}
    runnable = with_float_kernels(network) if on_cpu else network
    if runnable is parsed:
        shutil.copyfile(onnx, target)
    else:
        target.write_bytes(runnable.SerializeToString())
    try:
        with open_ort(target, settings.optimize, settings.threads, settings.providers) as session:
            nodes = session.nodes_by_provider
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
        note=_note(settings, nodes),
    )


def _note(settings: OrtEngine, nodes: Mapping[str, int]) -> str:
    if settings.is_reference:
        return "graph optimizations off: the numeric reference, not a measure of speed"
    names = tuple(dict.fromkeys((*_names(settings.providers), CPU)))
    where = ", ".join(f"{nodes.get(name, 0)} operators on {name}" for name in names) if nodes else ", ".join(names)
    return f"{where}; graph optimizations {'on' if settings.optimize else 'off'}"


class OrtSession:
    """An ONNX Runtime session.

    Attributes:
        nodes_by_provider: how many operators each execution provider was given; empty where ONNX Runtime does not tell.
    """

    def __init__(self, session: Any, where: str) -> None:
        self._session = session
        self._where = where
        self._specs = {value.name: _spec(value) for value in session.get_inputs()}
        self.inputs: Mapping[str, tuple[int, ...]] = MappingProxyType({n: s.shape for n, s in self._specs.items()})
        self.outputs = tuple(value.name for value in session.get_outputs())
        self._names = list(self.outputs)
        self.nodes_by_provider = _nodes_by_provider(session)

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

    def end_profile(self) -> Path:
        """End the profile of a session that was opened with one, and say where it is."""
        if self._session is None:
            raise closed(self._where)
        return Path(self._session.end_profiling())

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
