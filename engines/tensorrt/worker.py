"""Builds one engine with TensorRT or TensorRT-RTX, in a process of its own.

Reads settings.json in its folder, and writes there: model.engine, build.log (every message), progress.tsv,
inspector.json (where the engine can be loaded), result.json (how it ended; missing after a crash).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engines.tensorrt.configure import RefusedError, configure, create_network, describe, is_strong
from engines.tensorrt.plugins import prefer_native, register_plugins
from engines.tensorrt.progress import FILE, LogProgress, finish, start, step
from engines.tensorrt.settings import BuildSettings

ENGINE, LOG, RESULT, SETTINGS, INSPECTOR = "model.engine", "build.log", "result.json", "settings.json", "inspector.json"
_PR_SET_PDEATHSIG = 1
Write = Callable[[str], object]


def main(arguments: Sequence[str]) -> None:
    """Build once. Arguments: the ONNX file, the folder, the parent's process id."""
    onnx, folder, parent = arguments
    _die_with(int(parent))
    place = Path(folder)
    settings = BuildSettings.model_validate_json((place / SETTINGS).read_bytes())
    result: dict[str, Any] = {"stage": "", "errors": []}
    failed: list[OSError] = []
    try:
        with (
            (place / LOG).open("w", encoding="utf-8", buffering=1) as log,
            (place / FILE).open("w", encoding="utf-8", buffering=1) as events,
        ):
            logs, reports = _kept(log.write, failed), _kept(events.write, failed)
            result |= compile_network(Path(onnx), place, settings, logs, reports)
    except RefusedError as refusal:
        result |= {"stage": refusal.stage, "errors": refusal.errors}
    except OSError as error:
        failed.append(error)
    if failed:
        result |= {"stage": "build", "errors": [_unwritten(failed[0])]}
    (place / RESULT).write_text(json.dumps(result), encoding="utf-8")


def _kept(write: Write, failed: list[OSError]) -> Write:
    """Keep what fails: TensorRT would print an exception of ours, and then call the build cancelled by its user."""

    def attempt(text: str) -> None:
        try:
            write(text)
        except OSError as error:
            failed.append(error)

    return attempt


def _unwritten(error: OSError) -> dict[str, str]:
    return {
        "message": f"a file of the build cannot be read or written: {error}",
        "remedy": "free space there, or build in another folder",
    }


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, so that no build is left behind."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def compile_network(onnx: Path, folder: Path, settings: BuildSettings, log: Write, events: Write) -> dict[str, Any]:
    """Build model.engine in `folder`; returns the versions, notes for people, and whether it is strongly typed.

    Raises RefusedError; what the builder says goes to `log`, how far it is to `events`.
    """
    trt = importlib.import_module(settings.module)
    monitor = _monitor(trt, events) if hasattr(trt, "IProgressMonitor") else None
    logger = _logger(trt, log, None if monitor else LogProgress(events))
    register_plugins(trt, logger)
    builder = _builder(trt, logger)
    network = create_network(trt, builder, settings)
    parser = trt.OnnxParser(network, logger)
    prefer_native(trt, parser)
    # An empty or foreign file parses to an empty network, without an error.
    if not parser.parse_from_file(str(onnx)) or not network.num_layers or not network.num_outputs:
        raise RefusedError("parse", *(describe(parser.get_error(i)) for i in range(parser.num_errors)))
    setup = configure(trt, builder, network, settings)
    if monitor is not None:
        setup.config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, setup.config)
    setup.check_calibration()
    if engine is None:
        raise RefusedError("build")
    (folder / ENGINE).write_bytes(memoryview(engine))
    setup.keep_timings()
    if settings.module == "tensorrt":  # only there a GPU is known to be
        (folder / INSPECTOR).write_text(_inspect(trt, logger, engine, settings), encoding="utf-8")
    versions = {settings.module: str(trt.__version__)}
    return {"versions": versions, "notes": setup.notes, "strong": is_strong(trt, settings)}


def _builder(trt: Any, logger: Any) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # 'factory function returned nullptr'
        raise RefusedError("start", {"message": str(error)}) from error


def _inspect(trt: Any, logger: Any, engine: Any, settings: BuildSettings) -> str:
    """The engine's own layers, as JSON: loading it also proves that it loads."""
    runtime = trt.Runtime(logger)
    if settings.version_compatible and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True  # such an engine brings its own runtime; it was built just now, here
    if settings.dla_core is not None:
        runtime.DLA_core = settings.dla_core
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        raise RefusedError("load")
    return str(loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _logger(trt: Any, log: Write, progress: LogProgress | None) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps every message; the layer map is one of the verbose ones."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # super().__init__ leaves the C++ part unmade

        def log(self, severity: Any, message: str) -> None:
            log(f"[{severity.name}] {message}\n")
            if progress is not None:
                progress.message(message)

    return Logger()


def _monitor(trt: Any, events: Write) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports phases and steps; the parent cancels by ending this process."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            events(start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, number: int) -> bool:
            events(step(phase_name, number))
            return True

        def phase_finish(self, phase_name: str) -> None:
            events(finish(phase_name))

    return Monitor()
