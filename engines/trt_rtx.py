"""TensorRT for RTX, ahead of time on the CPU: proves that a graph parses, types and compiles, and what became INT8.

It proves nothing about speed, nor about what TensorRT fuses on Jetson or DRIVE.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx as onnx_package
from onnx import TensorProto

from avcompress.files import write_atomically
from avcompress.recipe import RtxEngine
from avcompress.spec import EngineBuildError
from engines.built import LAYERS, Built
from engines.layer_map import UNKNOWN, count_layers, layer_precisions, layers_json, parse_layers
from engines.network import float_nodes, read_network, weighted_nodes
from engines.session import one_line
from engines.trt_rtx_worker import ENGINE, LOG, RESULT

_OUTPUT = "output.txt"  # what the child prints itself: a traceback, a message of the loader
_ERROR_LINES = ("[ERROR]", "[INTERNAL_ERROR]")
# Follows every error on a machine without a GPU, and is not the reason.
_MISLEADING = "catchCudaError"
_MISLEADING_TAIL = re.compile(r"\s*\[\S*catchCudaError.*", re.DOTALL)
_SHOWN_ERRORS = 3
# Gives the child this process's import path, so that it finds this package however it is installed.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from engines.trt_rtx_worker import main; main(sys.argv[2:])"
)
_ADVICE = (
    ("no runners that implement it", "cut the graph before that operator, and run it outside the engine"),
    ("Non-zero zero point", "quantize symmetrically, with zero point 0"),
    ("UINT8", "quantize to int8 with zero point 0"),
    ("datatype (5)", "quantize to int8 with zero point 0"),
    ("type Int32", "leave biases in float: no DequantizeLinear on int32"),
    ("Plugin not found", "replace the plugin's operator by standard ones"),
    ("Could not infer output types", "keep that node in FP32: cast.keep_float"),
    ("DynamicQuantizeLinear", "quantize statically: a ptq stage"),
    ("HW-specific datatypes", "leave out the compute capabilities without that type"),
    ("Scale coefficients", "calibrate again: every scale must be above zero"),
    ("must have same input types", "cast both inputs to one type in the graph"),
)
_DEFAULT_ADVICE = "change that part of the network, or leave trt_rtx out of target.engines"


def build_rtx(onnx: Path, folder: Path, settings: RtxEngine) -> Built:
    """Compile the network into `folder`: model.engine, layers.json and build.log.gz.

    Raises EngineBuildError in one line, naming the node where TensorRT does, also when the compiler crashes or does
    not end in `settings.timeout_s` seconds. The child process never outlives this call.
    """
    start = time.monotonic()
    network = read_network(onnx)
    weighted = weighted_nodes(network)
    _refuse_uint8(network)
    result = _run_worker(onnx.resolve(), folder.resolve(), settings)
    log = (folder / LOG).read_text(encoding="utf-8")
    if result["stage"] or not (folder / ENGINE).is_file():
        raise EngineBuildError(str(result["stage"] or "build"), _refusal(onnx.name, result["errors"], log))
    layers = parse_layers(log)
    told, floats = layer_precisions(layers, weighted), float_nodes(network)
    # A fusion may lose a node's name. The network is strongly typed: what is float in it runs as its type says.
    precisions = {name: floats.get(name, UNKNOWN) if got == UNKNOWN else got for name, got in told.items()}
    write_atomically(folder / LAYERS, layers_json(layers, precisions, count_layers(layers, weighted)))
    write_atomically(folder / f"{LOG}.gz", gzip.compress(log.encode(), mtime=0))
    for name in (LOG, RESULT, _OUTPUT):
        (folder / name).unlink()
    return Built(
        backend="trt_rtx",
        folder=folder,
        files=(ENGINE, LAYERS, f"{LOG}.gz"),
        seconds=time.monotonic() - start,
        size_bytes=(folder / ENGINE).stat().st_size,
        precisions=precisions,
        runs_here=False,
        versions=result["versions"],
        note=f"structure check, RTX GPUs only ({', '.join(settings.compute_capabilities)}): not run, not measured",
    )


def _refuse_uint8(model: onnx_package.ModelProto) -> None:
    """Raise EngineBuildError for a QuantizeLinear to uint8, which TensorRT would take for int8 without an error."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        types.update((node.output[0], a.t.data_type) for a in node.attribute if a.name == "value")
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and _quantized_type(node, types) == TensorProto.UINT8:
            raise EngineBuildError(
                "parse",
                f"node {node.name!r} (QuantizeLinear): expected int8 with zero point 0, got uint8, which TensorRT "
                "takes for int8; quantize symmetrically to int8",
            )


def _quantized_type(node: onnx_package.NodeProto, types: Mapping[str, int]) -> int:
    if len(node.input) > 2 and node.input[2]:
        return types.get(node.input[2], TensorProto.UNDEFINED)
    stated = next((a.i for a in node.attribute if a.name == "output_dtype"), TensorProto.UNDEFINED)
    return stated or TensorProto.UINT8  # ONNX's default


def _run_worker(onnx: Path, folder: Path, settings: RtxEngine) -> dict[str, Any]:
    arguments = [str(onnx), str(folder), ",".join(settings.compute_capabilities), str(os.getpid())]
    command = [sys.executable, "-c", _BOOT, json.dumps([os.path.abspath(part) for part in sys.path]), *arguments]
    with (folder / _OUTPUT).open("wb") as output:
        # A session of its own: Ctrl-C reaches this process only, which then ends the child.
        child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, start_new_session=True
        )
        try:
            code = child.wait(settings.timeout_s)
        except subprocess.TimeoutExpired as error:
            raise EngineBuildError(
                "build",
                f"{onnx.name}: expected an engine within {settings.timeout_s:g} s, got none; raise timeout_s, or "
                "look for what makes the graph so large",
            ) from error
        finally:
            child.kill()
            child.wait()
    if code != 0 or not (folder / RESULT).is_file():
        raise EngineBuildError("build", _crash(onnx.name, code, folder))
    result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return result


def _crash(name: str, code: int, folder: Path) -> str:
    """One line on a child that ended before it could report."""
    if code == -signal.SIGKILL:
        ending, advice = "it was killed, out of memory perhaps", "free memory, or build on a larger machine"
    elif code < 0:
        ending, advice = f"it crashed ({signal.Signals(-code).name})", _DEFAULT_ADVICE
    else:
        ending, advice = f"it ended with code {code}", _DEFAULT_ADVICE
    log = folder / LOG
    last = _errors(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    printed = (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace").strip().split("\n")
    said = "; ".join(last[-1:] or [line for line in printed[-1:] if line])
    return f"{name}: expected the compiler to end, got: {ending}{': ' if said else ''}{one_line(said)}; {advice}"


def _refusal(name: str, errors: Iterable[Mapping[str, str]], log: str) -> str:
    """One line on what the parser or the builder refused, the parser's own words first."""
    said = [_described(error) for error in errors] or _errors(log) or ["an empty network"]
    unique = list(dict.fromkeys(said))
    text = one_line("; ".join(unique[:_SHOWN_ERRORS]), limit=700)
    advice = next((advice for mark, advice in _ADVICE if mark in text), _DEFAULT_ADVICE)
    return f"{name}: expected a network that TensorRT-RTX compiles, got: {text}; {advice}"


def _described(error: Mapping[str, str]) -> str:
    node = f"node {error['node']!r} ({error['op']}): " if error.get("node") else ""
    return f"{node}{one_line(_MISLEADING_TAIL.sub('', error['message']))}"


def _errors(log: str) -> list[str]:
    """The builder's error messages, without the one that every error on a machine without a GPU is followed by."""
    lines = (line for line in log.split("\n") if line.startswith(_ERROR_LINES) and _MISLEADING not in line)
    return [one_line(line.partition("] ")[2]) for line in lines]
