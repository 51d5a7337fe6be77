"""The layers that an engine inspector lists, as JSON: `get_engine_information(LayerInformationFormat.JSON)`.

The same text is what `trtexec --exportLayerInfo` writes. What changed over the versions:
- 8.2 to 8.5: no Metadata. A layer is called after the ONNX nodes that were fused into it, `w + QuantizeLinear_7 +
  Conv_9 + PWN(Clip_13)`; `A || B` were fused horizontally, and `{ForeignNode[a...b]}` is a region of which only the
  ends are named. A tensor's type is part of its format: `Thirty-two wide channel vectorized row major Int8 format`.
- 8.6: Metadata names the nodes, separated by the character 1E.
- 10: Myelin's regions are listed layer by layer, `gemm`, `kgen`, `fusion`; their tensors' `Format/Datatype` is the
  type alone, `Half`, and weights are not told: the kernel's name has to say what it multiplies. Separated by 1F.
- 11: `I/O Tensors` replaces `Bindings`, and a tensor's Format and type are two fields.

Source: NVIDIA/TensorRT, tools/experimental/trt-engine-explorer (8.2 to 10); issues 3737, 4020, 4397; NVIDIA TensorRT
documentation, "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x".
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from avcompress.spec import EngineError
from engines.layer_map.layer import BuilderLayer, Tensor, data_type, metadata_nodes, moved_bytes

_TYPE_KEYS = ("Datatype", "DataType", "Format/Datatype", "Format/DataType")
_PROFILE = re.compile(r" \[profile \d+\]$")
_POINTWISE = re.compile(r"PWN\(|\)|, ")


def parse_inspector(text: str, weighted: Collection[str]) -> tuple[BuilderLayer, ...]:
    """Read what an engine inspector says, of TensorRT 8.2 to 11.

    Args:
        text: JSON.
        weighted: the names of the weighted ONNX nodes, which the name of a fused layer is searched for where the engine
            has no metadata.

    Raises EngineError for anything else, and for an engine that was built without layers in detail.
    """
    layers = _layers(text)
    has_metadata = any("Metadata" in layer for layer in layers)
    return tuple(_layer(layer, None if has_metadata else frozenset(weighted)) for layer in layers)


def _layers(text: str) -> list[dict[str, Any]]:
    try:
        # Node names may be separated by bare control characters.
        content = json.loads(text, strict=False)
    except ValueError as error:
        raise _refusal(f"no JSON ({error})") from error
    layers = content.get("Layers") if isinstance(content, dict) else content
    if not isinstance(layers, list):
        raise _refusal("JSON without a list of layers")
    if not layers:
        raise _refusal("no layer")
    if any(isinstance(layer, str) for layer in layers):
        raise EngineError(
            "engine inspector: expected layers in detail, got their names only; build the engine with profiling "
            "verbosity detailed"
        )
    if not all(isinstance(layer, dict) for layer in layers):
        raise _refusal("layers of another form")
    return layers


def _refusal(got: str) -> EngineError:
    return EngineError(
        f"engine inspector: expected what get_engine_information gives as JSON, got {got}; ask the inspector again"
    )


def _layer(facts: Mapping[str, Any], weighted: frozenset[str] | None) -> BuilderLayer:
    """One layer; its nodes by its metadata, or by its name where there are weighted nodes to look for."""
    inputs, outputs = _tensors(facts, "Inputs"), _tensors(facts, "Outputs")
    constants = _tensors(facts, "Constants") or [
        _stored(facts[key]) for key in ("Weights", "Bias") if isinstance(facts.get(key), dict)
    ]
    name = str(facts.get("Name", ""))
    return BuilderLayer(
        name=name,
        kind=str(facts.get("LayerType", "")),
        inputs=tuple(tensor.type for tensor in inputs),
        constants=tuple(tensor.type for tensor in constants),
        outputs=tuple(tensor.type for tensor in outputs),
        nodes=metadata_nodes(str(facts.get("Metadata", ""))) if weighted is None else named_nodes(name, weighted),
        tactic=str(facts.get("TacticName", "")),
        origin=str(facts.get("Origin", "")),
        moved_bytes=moved_bytes([*inputs, *constants, *outputs]),
    )


def _tensors(facts: Mapping[str, Any], key: str) -> list[Tensor]:
    found = facts.get(key, [])
    return [_tensor(tensor) for tensor in found if isinstance(tensor, dict)] if isinstance(found, list) else []


def _tensor(facts: Mapping[str, Any]) -> Tensor:
    told = next((facts[key] for key in _TYPE_KEYS if key in facts), "")
    return Tensor(data_type(str(told)), _shape(facts.get("Dimensions", ())))


def _shape(dimensions: object) -> tuple[int, ...]:
    whole = isinstance(dimensions, Sequence) and all(isinstance(size, int) for size in dimensions)
    return tuple(dimensions) if whole and isinstance(dimensions, Sequence) else ()


def _stored(facts: Mapping[str, Any]) -> Tensor:
    """Weights or a bias, of which the type and the number are told."""
    return Tensor(data_type(str(facts.get("Type", ""))), _shape([facts.get("Count", -1)]))


def named_nodes(name: str, weighted: frozenset[str]) -> tuple[str, ...]:
    """The ONNX nodes that the name of a fused layer of TensorRT 8.2 to 8.5 is made of; () where it is not clear.

    Not clear are layers that were fused horizontally, and those that hold several weighted nodes: the types that such a
    layer tells are those of one of them.
    """
    if "||" in name:
        return ()
    parts = (part for long in _PROFILE.sub("", name).split(" + ") for part in _POINTWISE.split(long))
    nodes = tuple(part for part in parts if part)
    return nodes if sum(node in weighted for node in nodes) < 2 else ()
