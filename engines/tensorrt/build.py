"""Builds engines: TensorRT for this machine's GPU, TensorRT for RTX ahead of time on the CPU.

The latter proves that a graph parses, types and compiles, and what became INT8. It proves nothing about speed, nor
about what TensorRT fuses on Jetson or DRIVE.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import onnx as onnx_package
from onnx import TensorProto

from avcompress.files import write_atomically
from avcompress.recipe import RtxEngine, TrtEngine
from avcompress.spec import EngineBuildError, Track, untracked
from engines.built import LAYERS, Built
from engines.layer_map import (
    UNKNOWN,
    BuilderLayer,
    count_layers,
    layer_precisions,
    layers_json,
    parse_inspector,
    parse_layers,
)
from engines.network import float_nodes, read_network, weighted_nodes
from engines.tensorrt.child import OUTPUT, run_child
from engines.tensorrt.optimization import check_profiles, graph_shapes
from engines.tensorrt.progress import FILE as PROGRESS
from engines.tensorrt.refusals import read_text, refused
from engines.tensorrt.settings import BuildSettings
from engines.tensorrt.worker import ENGINE, INSPECTOR, LOG, RESULT, SETTINGS


def rtx_settings(engine: RtxEngine) -> BuildSettings:
    """What a recipe asks of TensorRT-RTX."""
    return BuildSettings(
        module="tensorrt_rtx",
        compute_capabilities=engine.compute_capabilities,
        dialect="strong",
        timeout_s=engine.timeout_s,
        memory_limit_mb=engine.memory_limit_mb,
    )


def trt_settings(engine: TrtEngine) -> BuildSettings:
    """What a recipe asks of TensorRT."""
    return BuildSettings(
        module="tensorrt",
        workspace_mb=engine.workspace_mb,
        optimization_level=engine.optimization_level,
        dla_core=engine.dla,
        dla_fallback=engine.dla_fallback,
        timeout_s=engine.timeout_s,
        memory_limit_mb=engine.memory_limit_mb,
    )


def build_rtx(onnx: Path, folder: Path, engine: RtxEngine, track: Track = untracked) -> Built:
    """Build what a recipe asks of TensorRT-RTX; see build_tensorrt."""
    return build_tensorrt(onnx, folder, rtx_settings(engine), track)


def build_tensorrt(onnx: Path, folder: Path, settings: BuildSettings, track: Track = untracked) -> Built:
    """Compile the network into `folder`: model.engine, layers.json, build.log.gz, and inspector.json by TensorRT.

    Raises EngineBuildError in one line, naming the node where TensorRT does, also when the compiler crashes, or takes
    more time or memory than the settings allow. The child process never outlives this call.
    """
    begun = time.monotonic()
    network = read_network(onnx, dynamic=True)
    weighted = weighted_nodes(network)
    _refuse_uint8(network)
    check_profiles(onnx.name, graph_shapes(network), settings.profiles, static=settings.dla_core is not None)
    result = run_child(onnx.resolve(), folder.resolve(), settings, track)
    log = read_text(folder / LOG)
    if result["stage"] or not (folder / ENGINE).is_file():
        errors = [_with_node(network, error) for error in result["errors"]]
        raise refused(onnx.name, settings.module, str(result["stage"] or "build"), errors, log)
    layers = _layers(folder / INSPECTOR, log, weighted)
    told = layer_precisions(layers, weighted)
    if result["strong"]:
        # A fusion may lose a node's name. In a strongly typed network, what is float runs as its type says.
        floats = float_nodes(network)
        told = {name: floats.get(name, UNKNOWN) if got == UNKNOWN else got for name, got in told.items()}
    write_atomically(folder / LAYERS, layers_json(layers, told, count_layers(layers, weighted)))
    write_atomically(folder / f"{LOG}.gz", gzip.compress(log.encode(), mtime=0))
    for name in (LOG, RESULT, SETTINGS, PROGRESS, OUTPUT):
        (folder / name).unlink(missing_ok=True)
    ahead = settings.module == "tensorrt_rtx"
    return Built(
        backend="trt_rtx" if ahead else "trt",
        folder=folder,
        files=tuple(name for name in (ENGINE, LAYERS, f"{LOG}.gz", INSPECTOR) if (folder / name).is_file()),
        seconds=time.monotonic() - begun,
        size_bytes=(folder / ENGINE).stat().st_size,
        precisions=told,
        runs_here=not ahead,
        versions=result["versions"],
        note=_note(settings),
        notes=tuple(result["notes"]),
        dialect=_dialect(settings, bool(result["strong"])),
        flags=settings.flags,
        told=settings.precisions,
    )


def _dialect(settings: BuildSettings, strong: bool) -> str:
    if settings.dialect != "auto":
        return settings.dialect
    return "strong" if strong else "weak"


def _layers(inspector: Path, log: str, weighted: Collection[str]) -> tuple[BuilderLayer, ...]:
    """What the engine inspector says, where the engine could be loaded; the builder's log otherwise."""
    if inspector.is_file():
        return parse_inspector(inspector.read_text(encoding="utf-8"), weighted)
    return parse_layers(log)


def _note(settings: BuildSettings) -> str:
    if settings.module == "tensorrt_rtx":
        targets = ", ".join(settings.compute_capabilities)
        return f"structure check, RTX GPUs only ({targets}): not run, not measured"
    return f"built on this machine, for {'DLA' if settings.dla_core is not None else 'its GPU'}: not measured"


def _with_node(model: onnx_package.ModelProto, error: Mapping[str, str]) -> Mapping[str, str]:
    """Name the node that an error gives the place of."""
    index = int(error.get("index", -1))
    if not 0 <= index < len(model.graph.node):
        return error
    node = model.graph.node[index]
    return {**error, "node": node.name, "op": node.op_type}


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
                node=node.name,
            )


def _quantized_type(node: onnx_package.NodeProto, types: Mapping[str, int]) -> int:
    if len(node.input) > 2 and node.input[2]:
        return types.get(node.input[2], TensorProto.UNDEFINED)
    stated = next((a.i for a in node.attribute if a.name == "output_dtype"), TensorProto.UNDEFINED)
    return stated or TensorProto.UINT8  # ONNX's default
