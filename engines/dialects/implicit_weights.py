"""What implicit quantization makes of weights: TensorRT scales each output channel by its own largest magnitude.

Weights are handed over as the float numbers that the integers stand for. A channel that uses a level of 127 gives its
integers back exactly; a channel whose largest level is lower, or -128, is put on another grid, finer or coarser.

Source: TensorRT Developer Guide, "Working with INT8": s = max(|w|) / 127, round half to even, clip to [-128, 127].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from avcompress.spec import Array, QuantParams
from engines.onnx_graph import attribute
from engines.qdq import dequantize_array, quantize_array

_QMAX = 127


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis of a layer's weights that its output channels lie on."""
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
        case _:
            return rank - 1


def implicit_params(weight: Array, axis: int) -> QuantParams:
    """The scales that TensorRT finds for float weights, one a channel; 1 for a channel of zeros."""
    largest = np.abs(weight.astype(np.float32)).max(axis=tuple(i for i in range(weight.ndim) if i != axis))
    scale = np.where(largest > 0, largest / np.float32(_QMAX), np.float32(1)).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    return QuantParams(tuple(scale.tolist()), (0,) * len(scale), "int8", axis)


@dataclass(frozen=True)
class Requantized:
    """How one layer's weights differ once TensorRT has quantized them itself.

    Attributes:
        channels: output channels.
        changed: of them, those whose integers are other ones.
        worst: the largest change of a weight, in steps of its own old scale.
    """

    node: str
    channels: int
    changed: int
    worst: float


def requantized(model: onnx.ModelProto, weights: Mapping[str, tuple[Array, QuantParams]]) -> Iterator[Requantized]:
    """Compare each layer's integers with those that TensorRT finds.

    Args:
        model: the float network.
        weights: by node name, the stored integers and their parameters.
    """
    for node in model.graph.node:
        if node.name not in weights:
            continue
        stored, params = weights[node.name]
        real = dequantize_array(stored, params)
        axis = output_axis(node, stored.ndim)
        own = implicit_params(real, axis)
        again = quantize_array(real, own)
        others = tuple(i for i in range(stored.ndim) if i != axis)
        changed = (again.astype(np.int16) != stored.astype(np.int16)).any(axis=others)
        steps = np.abs(dequantize_array(again, own) - real) / _per_value(params, stored)
        # Where the integers are the same, the scales may still differ in their last bit.
        worst = float((steps * np.expand_dims(changed, others)).max(initial=0.0))
        yield Requantized(node.name, stored.shape[axis], int(changed.sum()), worst)


def _per_value(params: QuantParams, stored: Array) -> Array:
    """The scale of each stored value."""
    return dequantize_array(np.ones_like(stored), params)
