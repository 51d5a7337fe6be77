"""FP16 or BF16 for what is float, the last of the stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

import onnx

from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import place
from avcompress.quant.plan import prepare
from avcompress.recipe import Cast, KeepFloat
from avcompress.spec import Artifact, LayerPlan, QuantParams, RecipeError
from engines.precision import cast_network
from engines.qdq import qdq_sites

_SHOWN = 3


def cast(artifact: Artifact, settings: Cast) -> Artifact:
    """Compute in FP16 or BF16 what is float; see `cast_network` for what stays FP32.

    On a float network, batch norms are folded first and every weighted layer is planned; on a quantized one the layers
    that are float change, and the scales of the others are rounded to the format.

    Args:
        artifact: a float onnx.ModelProto, or one with Q/DQ.
        settings: the format, and the nodes that stay FP32.

    Raises RecipeError for a pattern that matches no node, ModelError.
    """
    float_network = artifact.reference is None
    model = prepare(artifact.model) if float_network else artifact.model
    keep = {**_unbuildable(model, settings), **_kept(model, settings.keep_float)}
    network, reasons = cast_network(model, settings.format, keep)
    layers = artifact.layers or _unquantized(model)
    layers = tuple(_recast(layer, settings, reasons) for layer in layers)
    return replace(
        artifact,
        model=network,
        reference=model if float_network else artifact.reference,
        qparams=_rounded(artifact.qparams, network),
        layers=layers,
        log=(*artifact.log, _summary(settings, layers, reasons)),
    )


def _kept(model: onnx.ModelProto, patterns: Iterable[str]) -> dict[str, str]:
    """The reason of every node that a pattern names."""
    names = {node.name: (node.name, *node.output) for node in model.graph.node}
    reasons: dict[str, str] = {}
    for pattern in patterns:
        hits = [node for node, own in names.items() if any(fnmatchcase(name, pattern) for name in own)]
        if not hits:
            near = ", ".join(get_close_matches(pattern.strip("*"), sorted(names), n=3, cutoff=0.0))
            raise RecipeError(
                f"cast.keep_float: expected patterns that match a node's or its output's name, got {pattern!r}; the "
                f"nearest names are {near}"
            )
        for node in hits:
            reasons.setdefault(node, f"pattern {pattern!r}")
    return reasons


def _unbuildable(model: onnx.ModelProto, settings: Cast) -> dict[str, str]:
    """The nodes that TensorRT-RTX 1.7.1 refuses in the format.

    "Could not infer output types for operation: deconv", and for HardSwish an assertion of its parser.
    """
    if settings.format != "bf16":
        return {}
    return {node.name: why for node in model.graph.node if (why := _NOT_IN_BF16.get(node.op_type)) is not None}


_NOT_IN_BF16 = {
    "ConvTranspose": "TensorRT has no transposed convolution in BF16",
    "HardSwish": "TensorRT has no HardSwish in BF16",
}


def _unquantized(model: onnx.ModelProto) -> tuple[LayerPlan, ...]:
    """The weighted layers of a network that no stage has planned, all of them float."""
    planned = place(graph_view(model), KeepFloat(head=False)).layers
    return tuple(replace(layer, precision="float", reason="not quantized") for layer in planned)


def _recast(layer: LayerPlan, settings: Cast, reasons: Mapping[str, str]) -> LayerPlan:
    if layer.precision != "float":
        return layer
    if layer.name in reasons:
        return replace(layer, reason=f"FP32: {reasons[layer.name]}")
    return replace(layer, precision=settings.format)


def _rounded(qparams: Mapping[str, QuantParams], network: onnx.ModelProto) -> dict[str, QuantParams]:
    """The parameters with the scales as the network has them now."""
    before = {node.output[0]: node.input[0] for node in network.graph.node if node.op_type == "Cast"}
    found = {before.get(s.tensor, s.tensor): s.params for s in qdq_sites(network) if s.params is not None}
    return {name: found.get(name, params) for name, params in qparams.items()}


def _summary(settings: Cast, layers: tuple[LayerPlan, ...], reasons: Mapping[str, str]) -> str:
    """One line: how many layers were cast, and the nodes that stay FP32 by reason."""
    done = sum(layer.precision == settings.format for layer in layers)
    counts = Counter(reasons.values())
    told = [f"{count} x {reason}{_named(reason, count, reasons)}" for reason, count in counts.items()]
    floats = "; FP32 nodes: " + ", ".join(told) if told else ""
    return f"cast: {done} of {len(layers)} layers in {settings.format}{floats}"


def _named(reason: str, count: int, reasons: Mapping[str, str]) -> str:
    """The nodes' names, of a reason that few have."""
    if count > _SHOWN:
        return ""
    return f" ({', '.join(name for name, own in reasons.items() if own == reason)})"
