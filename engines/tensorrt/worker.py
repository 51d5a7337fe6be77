"""Builds one TensorRT-RTX engine, in a process of its own: the compiler may crash, hang, or take all memory.

Writes into its folder: model.engine, build.log (every message), result.json (how it ended; missing after a crash).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ENGINE, LOG, RESULT = "model.engine", "build.log", "result.json"
_PR_SET_PDEATHSIG = 1


class RefusedError(Exception):
    """The builder refused the network, at this stage, for these reasons."""


def main(arguments: Sequence[str]) -> None:
    """Build once. Arguments: the ONNX file, the folder, the compute capabilities (sm86,sm89), the parent's id."""
    onnx, folder, capabilities, parent = arguments
    _die_with(int(parent))
    result: dict[str, Any] = {"stage": "", "errors": []}
    with (Path(folder) / LOG).open("w", encoding="utf-8", buffering=1) as log:
        try:
            result["versions"] = _build(Path(onnx), Path(folder), capabilities.split(","), log.write)
        except RefusedError as refusal:
            result["stage"], result["errors"] = refusal.args
    (Path(folder) / RESULT).write_text(json.dumps(result), encoding="utf-8")


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, so that no build is left behind."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _build(onnx: Path, folder: Path, capabilities: Sequence[str], log: Callable[[str], object]) -> dict[str, str]:
    import tensorrt_rtx as trt

    logger = _logger(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    # An empty or foreign file parses to an empty network, without an error.
    if not parser.parse_from_file(str(onnx)) or not network.num_layers or not network.num_outputs:
        raise RefusedError("parse", [_facts(parser.get_error(i)) for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index):
            raise RefusedError("build", [{"message": f"compute capability {name} is not supported"}])
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RefusedError("build", [])
    (folder / ENGINE).write_bytes(memoryview(engine))
    return {"tensorrt_rtx": str(trt.__version__)}


def _facts(error: Any) -> dict[str, str]:
    return {"message": error.desc(), "node": error.node_name(), "op": error.node_operator()}


def _logger(trt: Any, log: Callable[[str], object]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps every message; the layer map is one of the verbose ones."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # super().__init__ leaves the C++ part unmade

        def log(self, severity: Any, message: str) -> None:
            log(f"[{severity.name}] {message}\n")

    return Logger()
