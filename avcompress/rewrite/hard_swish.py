"""SiLU, x · sigmoid(x), as HardSwish, x · clip(x / 6 + 1/2, 0, 1).

That has no exponential, which is much of the time of a network with few channels. It is not the same function.
HardSwish of an input that is scaled by 1.2, with its output scaled back, is nearer: so where the layers around can take
these factors into their weights, they do. What is left is for a fit of the layers and for training.

Sources: Howard et al.: Searching for MobileNetV3, arXiv:1905.02244, section 5.2. The factor is the best of 1, 1.1 and
1.2 for YOLOX-nano, as it was and after its layers were fitted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

import onnx
from onnx import helper, numpy_helper

from avcompress.rewrite.values import Allowed, Change
from avcompress.spec import ModelError
from engines.onnx_graph import copy, drop_unused, initializers, is_standard, use_counts

_SCALE = 1.2
_OPSET = 14
"""From which on ONNX has HardSwish."""
_KEEPING = frozenset(
    [
        "AveragePool",
        "DepthToSpace",
        "Dropout",
        "Flatten",
        "GlobalAveragePool",
        "Identity",
        "LeakyRelu",
        "MaxPool",
        "PRelu",
        "Relu",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)
"""f(s · x) = s · f(x) of their first input, for s > 0."""
_SUMMING = frozenset({"Add", "Concat", "Max", "Min", "Sub", "Sum"})
"""The same, of all inputs alike."""
_AFFINE = frozenset({"BatchNormalization", "Conv", "ConvTranspose", "Gemm"})
"""Their constants can take a factor of the input, and another one of the output."""


def hard_swish(network: onnx.ModelProto, allowed: Allowed) -> Change:
    """Replace SiLU by HardSwish; the nodes are the multiplications that ended SiLUs. Not exact.

    Raises ModelError for SiLUs of an opset that has no HardSwish.
    """
    inputs = {name: value for name, value in _swishes(network) if allowed(name)}
    if not inputs:
        return Change(network, ())
    opset = max((each.version for each in network.opset_import if each.domain in {"", "ai.onnx"}), default=0)
    if opset < _OPSET:
        raise ModelError(f"hard_swish: expected opset {_OPSET} or later, got {opset}; export the network again")
    new = copy(network)
    for node in new.graph.node:
        if node.name in inputs:
            node.CopyFrom(helper.make_node("HardSwish", [inputs[node.name]], list(node.output), name=node.name))
    new = drop_unused(new)
    ties = _Ties(new, inputs)
    hard = [node.output[0] for node in new.graph.node if node.name in inputs]
    factors = dict.fromkeys((tensor for start in hard for tensor in ties.tied_to(start)), _SCALE)
    _scale_(new, factors)
    return Change(new, tuple(inputs), factors)


def _swishes(network: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """(name, x) of every multiplication of an x by its sigmoid."""
    nodes = [node for node in network.graph.node if is_standard(node)]
    sigmoids = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Sigmoid"}
    for node in nodes:
        if node.op_type == "Mul":
            gate = next((name for name in node.input if sigmoids.get(name) in node.input), None)
            if gate is not None:
                yield node.name, sigmoids[gate]


class _Ties:
    """Which tensors of a network have to be scaled together: all but the images and the outputs can be."""

    def __init__(self, network: onnx.ModelProto, activations: Collection[str]) -> None:
        self.activations = activations
        self.constants, self.uses = initializers(network), use_counts(network)
        self.outside = {value.name for value in (*network.graph.input, *network.graph.output)}
        self.touching: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in network.graph.node:
            for name in {*node.input, *node.output} - {""} - set(self.constants):
                self.touching[name].append(node)

    def tied_to(self, start: str) -> set[str]:
        """All that has to be scaled with a tensor; nothing where something among it cannot be."""
        found, todo = {start}, [start]
        while todo:
            tensor = todo.pop()
            tied = [self._tied_by(node) for node in self.touching[tensor]]
            if tensor in self.outside or None in tied:
                return set()
            new = set().union(*(each for each in tied if each)) - found
            found |= new
            todo += new
        return found

    def _tied_by(self, node: onnx.NodeProto) -> set[str] | None:
        """The tensors that a node ties together; None where it would not compute the same any more."""
        if node.name in self.activations:
            return {node.input[0], *node.output}
        operands = [name for name in node.input[1:] if name]
        match node.op_type if is_standard(node) else "":
            case op if op in _AFFINE:
                own = all(name in self.constants and self.uses[name] == 1 for name in operands)
                return set() if own else None
            case op if op in _KEEPING:
                return {node.input[0], *node.output}
            case op if op in _SUMMING and not self.constants.keys() & set(node.input):
                return {*node.input, *node.output}
            case _:
                return None


def _scale_(network: onnx.ModelProto, factors: Mapping[str, float]) -> None:
    """Scale these tensors, by the constants of the layers at their ends."""
    constants = initializers(network)
    for node in network.graph.node:
        if node.op_type not in _AFFINE or not is_standard(node):
            continue
        before, after = (factors.get(name, 1.0) for name in (node.input[0], node.output[0]))
        parts = [after / before, after, before][: len(node.input) - 1]  # weight and bias; or gain, shift and mean
        for name, factor in zip(node.input[1:], parts, strict=False):
            if name and factor != 1:
                value = numpy_helper.to_array(constants[name])
                constants[name].CopyFrom(numpy_helper.from_array((value * factor).astype(value.dtype), name))
