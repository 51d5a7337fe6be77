"""The dla-implicit dialect: a float network, a calibration cache with a scale for each tensor, precisions by layer.

DLA takes no Q/DQ up to TensorRT 10.7. A weighted layer is INT8 where its operands have Q/DQ, and every tensor that it
touches has a scale. Any other layer is INT8 where its tensors are integers already, or have Q/DQ's own scale: else it
would only round once more. The rest is FP16, each layer with the reason. Where the numbers differ from
the network with Q/DQ is said in the notes: outputs that are rounded now and were not, weights that TensorRT puts on
another grid.

Source: TensorRT Developer Guide, "Implicit Quantization" and "Working with DLA"; the cache and the precisions as
NVIDIA's own translator writes them, Deep-Learning-Accelerator-SW, tools/qdq-translator.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import onnx

from avcompress.spec import Array, ModelError, QuantParams
from engines.dialects.calibration_cache import CalibrationCache, version_number, write_cache
from engines.dialects.dialect import (
    CACHE,
    LAYER_OUTPUT_TYPES,
    LAYER_PRECISIONS,
    PRECISIONS,
    DialectSettings,
    Expressed,
)
from engines.dialects.dla_layers import FP16_ONLY, ONE_SCALE, Facts, obstacle
from engines.dialects.float_range import outside_fp16, seen_ranges
from engines.dialects.implicit_weights import requantized
from engines.dialects.notes import grouped
from engines.dialects.planned import sites_by_edge
from engines.dialects.prepare import float_tensors, in_fp32, prepared, refuse_unknown, refuse_untakeable
from engines.dialects.tensor_scales import WITH_CONSTANT, Scale, tensor_scales
from engines.dialects.weak import at_opset_17, flags
from engines.dialects.weights import without_lone_weights
from engines.network import network_inputs, weighted_nodes
from engines.onnx_graph import copy, fresh, is_standard, shapes
from engines.precision import kept_fp32
from engines.qdq import constant_values, qdq_edges, qdq_sites, quantize_array, without_qdq

_SHOWN = 5
_NOT_LAYERS = frozenset({"arithmetic on shapes", "ONNX has the operator in FP32 only"})


@dataclass(frozen=True)
class Layer:
    """What one node of the float network becomes.

    Attributes:
        precision: int8 or fp16.
        device: dla or gpu.
        reason: why it is not INT8 on DLA; "" if it is.
    """

    precision: str
    device: str
    reason: str


def express_dla_implicit(model: onnx.ModelProto, settings: DialectSettings) -> Expressed:
    """A float network, the cache, and the precisions; raises ModelError for what DLA cannot be told, or take."""
    if settings.float_type == "bf16":
        raise ModelError("ONNX graph: expected fp16 for the dla-implicit dialect, DLA has no bf16; use fp16")
    quantized, settings, notes = _as_read(model, settings)
    plain, known = without_qdq(quantized), _known_scales(quantized)
    scales = tensor_scales(plain, known, settings.ranges)
    layers = _layers(plain, quantized, scales, settings)
    _refuse_fallback(layers, settings)
    used = {name: scale for name, scale in _in_graph_order(plain, scales).items() if name in _touched(plain, layers)}
    version = version_number(settings.tensorrt)
    cache = CalibrationCache(version, {name: scale.value for name, scale in used.items()})
    weighted = set(weighted_nodes(plain))
    return Expressed(
        model=plain,
        dialect="dla-implicit",
        files={
            CACHE: write_cache(cache),
            PRECISIONS: _described(layers, used),
            LAYER_PRECISIONS: _specification((name, layer.precision) for name, layer in layers.items()),
            LAYER_OUTPUT_TYPES: _specification(_output_types(plain, layers)),
        },
        flags=flags(quantized, settings, constrained=True),
        precisions={name: layer.precision for name, layer in layers.items()},
        notes=(*notes, *_notes(plain, quantized, scales, layers, weighted)),
    )


def _as_read(
    model: onnx.ModelProto, settings: DialectSettings
) -> tuple[onnx.ModelProto, DialectSettings, tuple[str, ...]]:
    """The network with Q/DQ in the form that TensorRT 8 takes, settings with its nodes' names, and what was done."""
    new, notes = prepared(model)
    refuse_unknown(new, settings.keep_float)
    new, widened = in_fp32(new)
    for name, shape in network_inputs(new).items():
        if not shape or min(shape) < 1:
            raise ModelError(
                f"input {name!r}: expected a static shape, DLA has no dynamic ones, got {shape}; fix its dimensions"
            )
    new, names = _plain_names(new)
    settings = replace(settings, keep_float={names.get(n, n): why for n, why in settings.keep_float.items()})
    renamed = (f"{len(names)} node names lost their commas, as {next(iter(names))!r}",) if names else ()
    new, unpacked = without_lone_weights(new)
    new, older, parts = at_opset_17(new, settings.newest_opset)
    whole = settings.keep_float
    settings = replace(settings, keep_float=dict(whole) | {p: whole[w] for p, w in parts.items() if w in whole})
    refuse_untakeable(new, "tensorrt-8")
    return new, settings, (*notes, *widened, *renamed, *unpacked, *older)


def _plain_names(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Node names without commas, which end a layer in trtexec's lists; and the new names by the old."""
    new = copy(model)
    taken = {node.name for node in new.graph.node}
    names = {node.name: fresh(node.name.replace(",", "_"), taken) for node in new.graph.node if "," in node.name}
    for node in new.graph.node:
        node.name = names.get(node.name, node.name)
    return new, names


def _known_scales(quantized: onnx.ModelProto) -> dict[str, float]:
    """The scale that Q/DQ give each tensor; raises ModelError where it is not one scale for the whole tensor."""
    qdq_edges(quantized)  # refuses two scales for one tensor
    known = {}
    for site in qdq_sites(quantized):
        if site.constant or site.params is None:
            continue
        if len(site.params.scale) > 1 or site.params.dtype != "int8":
            raise ModelError(
                f"tensor {site.tensor!r}: expected int8 with one scale, got {site.params.dtype} with "
                f"{len(site.params.scale)} ({site.dequantize!r}); quantize activations per tensor"
            )
        known[site.tensor] = site.params.scale[0]
    return known


# --- layers


def _layers(
    plain: onnx.ModelProto, quantized: onnx.ModelProto, scales: Mapping[str, Scale], settings: DialectSettings
) -> dict[str, Layer]:
    """What each node with float results becomes, by name, in graph order."""
    constants = constant_values(plain)
    facts = Facts(shapes(plain), constants)
    kept = _kept(plain, quantized, settings)
    floats = float_tensors(plain)
    planned = {edge[0] for edge in _both_operands(quantized)}
    weighted = set(weighted_nodes(plain))
    integers: set[str] = {value.name for value in plain.graph.input}
    found: dict[str, Layer] = {}
    for node in plain.graph.node:
        if not floats.intersection(node.output) or kept.get(node.name) in _NOT_LAYERS:
            continue
        blocked = obstacle(node, facts)
        reason = kept.get(node.name, "")
        if not reason and node.name in weighted and node.name not in planned:
            reason = "float by the plan: its operands have no Q/DQ"
        if not reason:
            reason = _not_int8(node, scales, floats | _float_constants(node, constants))
        if not reason and node.name not in weighted:
            reason = _needless(node, scales, integers)
        precision = "fp16" if reason else "int8"
        if precision == "int8":
            integers.update(node.output)
        found[node.name] = Layer(precision, "gpu" if blocked else "dla", blocked or reason)
    return found


def _kept(plain: onnx.ModelProto, quantized: onnx.ModelProto, settings: DialectSettings) -> dict[str, str]:
    """The nodes that are not for INT8, and why: what the network's end is computed by, and what the user keeps."""
    keep = {name: why for name, why in settings.keep_float.items() if any(n.name == name for n in plain.graph.node)}
    too_large = outside_fp16(plain, seen_ranges(quantized, settings.ranges))
    reasons = kept_fp32(plain, "fp16", keep)
    return {name: f"{why}: DLA has no FP32" for name, why in too_large.items() if name in reasons} | reasons


def _both_operands(quantized: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    by_edge = sites_by_edge(quantized)
    yield from ((name, index) for name, index in by_edge if index == 0 and (name, 1) in by_edge)


def _float_constants(node: onnx.NodeProto, constants: Mapping[str, Array]) -> frozenset[str]:
    """Constants that are tensors with a scale of their own; a layer's weights and parameters are not."""
    if node.op_type not in WITH_CONSTANT or not is_standard(node):
        return frozenset()
    return frozenset(name for name in node.input if name in constants)


def _not_int8(node: onnx.NodeProto, scales: Mapping[str, Scale], floats: frozenset[str]) -> str:
    """Why a layer cannot be INT8, "" if it can."""
    tensors = [name for name in dict.fromkeys((*node.input, *node.output)) if name in floats]
    missing = next((name for name in tensors if name not in scales), None)
    if missing is not None:
        return f"tensor {missing!r} has no scale: no Q/DQ, no range"
    if node.op_type in FP16_ONLY:
        return f"DLA computes {node.op_type} in FP16 only"
    values = {scales[name].value for name in tensors}
    if node.op_type in ONE_SCALE and len(values) > 1:
        return f"its tensors have scales from {min(values):.4g} to {max(values):.4g}, DLA takes one"
    return ""


def _needless(node: onnx.NodeProto, scales: Mapping[str, Scale], integers: set[str]) -> str:
    """Why INT8 in a layer without weights would only round what Q/DQ left in float, "" if it would not."""
    if not integers.intersection(node.input):
        return "its inputs come from FP16 layers"
    tensors = [name for name in (*node.input, *node.output) if name in scales and name not in integers]
    rounded = next((name for name in tensors if scales[name].origin == "range"), None)
    return "" if rounded is None else f"INT8 would round {rounded!r}, which Q/DQ left in float"


def _refuse_fallback(layers: Mapping[str, Layer], settings: DialectSettings) -> None:
    gpu = [f"{name}: {layer.reason}" for name, layer in layers.items() if layer.device == "gpu"]
    if gpu and settings.gpu_fallback == "refuse":
        more = f" (and {len(gpu) - _SHOWN} more)" if len(gpu) > _SHOWN else ""
        raise ModelError(
            f"DLA: expected layers that it can take, got {'; '.join(gpu[:_SHOWN])}{more}; let them run on the GPU with "
            "gpu_fallback: list, or change them"
        )


# --- files


def _in_graph_order(model: onnx.ModelProto, scales: Mapping[str, Scale]) -> dict[str, Scale]:
    names = [value.name for value in model.graph.input]
    for node in model.graph.node:
        names += [*node.input, *node.output]
    return {name: scales[name] for name in dict.fromkeys(names) if name in scales}


def _touched(model: onnx.ModelProto, layers: Mapping[str, Layer]) -> frozenset[str]:
    """The tensors that an INT8 layer reads or writes; no other needs a scale."""
    nodes = [n for n in model.graph.node if n.name in layers and layers[n.name].precision == "int8"]
    return frozenset(name for node in nodes for name in (*node.input, *node.output))


def _described(layers: Mapping[str, Layer], scales: Mapping[str, Scale]) -> bytes:
    content = {
        "layers": {
            name: {"precision": layer.precision, "device": layer.device, "reason": layer.reason}
            for name, layer in layers.items()
        },
        "tensors": {name: {"scale": scale.value, "from": scale.origin} for name, scale in scales.items()},
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _specification(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The argument of trtexec's --layerPrecisions and --layerOutputTypes."""
    return ",".join(f"{name}:{kind}" for name, kind in pairs).encode()


def _output_types(model: onnx.ModelProto, layers: Mapping[str, Layer]) -> Iterator[tuple[str, str]]:
    for node in model.graph.node:
        if node.name in layers:
            yield node.name, "+".join([layers[node.name].precision] * len([name for name in node.output if name]))


# --- what differs


def _notes(
    plain: onnx.ModelProto,
    quantized: onnx.ModelProto,
    scales: Mapping[str, Scale],
    layers: Mapping[str, Layer],
    weighted: set[str],
) -> Iterator[str]:
    yield from grouped("runs on the GPU", {n: each.reason for n, each in layers.items() if each.device == "gpu"})
    half = {n: layers[n].reason for n in layers if n in weighted and layers[n].precision == "fp16"}
    yield from grouped("runs in FP16", {name: why for name, why in half.items() if layers[name].device == "dla"})
    made = [o for n in plain.graph.node if n.name in layers and layers[n.name].precision == "int8" for o in n.output]
    extra = [name for name in made if name in scales and scales[name].origin == "range"]
    if extra:
        yield f"{len(extra)} outputs of INT8 layers are rounded that Q/DQ left in float, as {extra[0]!r}"
    integer = {name for name in weighted if name in layers and layers[name].precision == "int8"}
    moved = [each for each in requantized(plain, _stored_weights(quantized, integer)) if each.changed]
    if moved:
        channels, worst = sum(each.changed for each in moved), max(each.worst for each in moved)
        yield (
            f"TensorRT's own weight scales change {channels} channels of {len(moved)} layers, a weight by up to "
            f"{worst:.2g} steps: their largest level is not 127"
        )


def _stored_weights(quantized: onnx.ModelProto, layers: Iterable[str]) -> dict[str, tuple[Array, QuantParams]]:
    """The integers of each layer's weights and their parameters."""
    by_edge, constants, wanted = sites_by_edge(quantized), constant_values(quantized), set(layers)
    makers = {node.output[0]: node for node in quantized.graph.node if node.output}
    found = {}
    for (name, index), site in by_edge.items():
        if name not in wanted or index != 1 or not site.constant or site.params is None:
            continue
        source = makers[site.output].input[0]
        stored = constants[source] if not site.quantize else quantize_array(constants[site.tensor], site.params)
        found[name] = stored, site.params
    return found
