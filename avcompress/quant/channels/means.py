"""The mean of every channel behind a batch norm, without data: its normal distribution taken through what follows.

A batch norm leaves its channels about normal, with the mean beta and the deviation gamma. A row of quantiles of that
distribution stands for the channel; ONNX Runtime takes it through the element-wise operators that follow, Q/DQ among
them, and the row's mean is the tensor's.

Source: Nagel et al., arXiv:1906.04721, section 4.2.1 and appendix C, which have the closed form for ReLU alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import NormalDist

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.spec import Array
from engines.in_memory import open_model
from engines.norm_statistics import ChannelStatistics, read_statistics
from engines.onnx_graph import attribute, copy, drop_unused_initializers, initializers, is_standard, set_nodes_

_QUANTILES = 1024
_ELEMENTWISE = frozenset(
    {"Add", "Celu", "Clip", "DequantizeLinear", "Div", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "Mish", "Mul", "PRelu", "QuantizeLinear", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sub"}
    | {"Swish", "Tanh", "ThresholdedRelu"}
)


def dequantized_and_means(model: onnx.ModelProto, wanted: Iterable[str]) -> dict[str, Array]:
    """The mean of every channel, (C,), of the wanted activations behind a batch norm, and wanted constants as floats.

    Those of which nothing is known are left out; constants are given whole, dequantized where they are stored so.
    """
    sources, nodes, constant = _computable(model)
    produced = {name for node in nodes for name in node.output} | set(sources)
    names = [name for name in dict.fromkeys(wanted) if name in produced]
    if not names:
        return {}
    small = copy(model)
    del small.graph.input[:], small.graph.output[:], small.graph.value_info[:]
    shape = (1, None, 1, _QUANTILES)
    for graph, tensors in ((small.graph.input, list(sources)), (small.graph.output, names)):
        graph.extend(
            helper.make_tensor_value_info(t, onnx.TensorProto.FLOAT, None if t in constant else shape) for t in tensors
        )
    set_nodes_(small, nodes)
    rows = open_model(drop_unused_initializers(small)).run(names, {t: _rows(s) for t, s in sources.items()})
    found = dict(zip(names, rows, strict=True))
    return {
        t: values if t in constant else values.mean(axis=(0, 2, 3), dtype=np.float64) for t, values in found.items()
    }


def _rows(statistics: ChannelStatistics) -> Array:
    """Quantiles of every channel's normal distribution: (1, C, 1, quantiles), float32."""
    normal = NormalDist()
    z = np.array([normal.inv_cdf((i + 0.5) / _QUANTILES) for i in range(_QUANTILES)])
    mean, std = (values.astype(np.float64)[None, :, None, None] for values in statistics)
    rows: Array = (mean + std * z).astype(np.float32)
    return rows


def _computable(
    model: onnx.ModelProto,
) -> tuple[dict[str, ChannelStatistics], list[onnx.NodeProto], set[str]]:
    """The tensors with known statistics, the nodes that follow from them or from constants, and what is constant."""
    constants = initializers(model)
    sources: dict[str, ChannelStatistics] = {}
    nodes: list[onnx.NodeProto] = []
    origin: dict[str, str] = dict.fromkeys(constants, "")
    for node in model.graph.node:
        statistics = _statistics(node, constants)
        if statistics is not None:
            sources[node.output[0]] = statistics
            origin[node.output[0]] = node.output[0]
        elif is_standard(node) and _follows(node, origin, constants):
            nodes.append(node)
            roots = {origin[name] for name in node.input if name} - {""}
            origin[node.output[0]] = node.output[0] if node.op_type == "Concat" else next(iter(roots), "")
    return sources, nodes, {name for name, root in origin.items() if not root}


def _statistics(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> ChannelStatistics | None:
    if node.op_type == "BatchNormalization" and not attribute(node, "training_mode", 0):
        if all(name in constants for name in node.input[1:3]):
            gamma, beta = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
            return ChannelStatistics(beta, np.abs(gamma))
        return None
    return read_statistics(node)


def _follows(node: onnx.NodeProto, origin: Mapping[str, str], constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether the node's value follows from known rows: an element-wise function of one source, or rows put together.

    Rows of two sources say nothing of their sum: which values go together is not known.
    """
    inputs = [name for name in node.input if name]
    if any(name not in origin for name in inputs):
        return False
    if node.op_type == "Concat":
        return attribute(node, "axis", 1) == 1 and all(origin[name] for name in inputs)
    if node.op_type not in _ELEMENTWISE or len({origin[name] for name in inputs} - {""}) > 1:
        return False
    alone = all(not origin[name] for name in inputs)
    return alone or all(_is_per_channel(constants[name]) for name in inputs if name in constants)


def _is_per_channel(tensor: onnx.TensorProto) -> bool:
    return int(np.prod(tensor.dims)) == 1 or (len(tensor.dims) > 2 and tuple(tensor.dims[-2:]) == (1, 1))
