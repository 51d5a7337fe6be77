"""Whether each weighted layer will run in INT8, and if not, why not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from engines.lint.attention import splits_attention
from engines.lint.finding import Finding
from engines.lint.flow import FLOAT, Feed, feed
from engines.lint.fusion import Pair, scale_of, tie_advice, tied_pairs
from engines.lint.params import refittable
from engines.lint.targets import Takes
from engines.lint.view import Quant, View
from engines.onnx_graph import attribute, is_weighted

_CHEAP_CHANNELS = 16  # fewer are padded to so many
LARGEST_FP8_KERNEL = 32
"""Values of a kernel; TensorRT-RTX 1.7.1 runs 4 x 8 in FP8, 3 x 11 in float."""
_FOUR = frozenset({TensorProto.INT4, TensorProto.UINT4})


@dataclass(frozen=True, eq=False)
class Layer:
    """A weighted layer and its two operands.

    Attributes:
        weight: the feed of the constant operand; of the second one where both are activations.
        index: which input the weight is.
        has_weight: whether one operand is constant.
        obstacle: why it is not INT8; "" if it is, or if nothing of it is quantized.
    """

    node: onnx.NodeProto
    label: str
    data: Feed
    weight: Feed
    index: int
    has_weight: bool
    obstacle: str = ""

    @property
    def int8(self) -> bool:
        """Whether it will run in INT8, or FP8."""
        return self.data.kind == "quantized" and self.weight.kind == "quantized" and not self.obstacle


def layers(view: View) -> list[Layer]:
    """The weighted layers of a graph in order; products of constants alone are none."""
    nodes = (n for n in view.nodes if is_weighted(n) and len(n.input) > 1)
    return [_layer(view, node) for node in nodes if not view.constant.issuperset(node.input[:2])]


def _layer(view: View, node: onnx.NodeProto) -> Layer:
    constant = [name in view.constant for name in node.input[:2]]
    index = 0 if constant[0] and not constant[1] else 1
    layer = Layer(
        node=node,
        label=view.label(node),
        data=feed(view, node.input[1 - index]),
        weight=feed(view, node.input[index]),
        index=index,
        has_weight=any(constant),
    )
    return replace(layer, obstacle=_obstacle(view, layer))


def _obstacle(view: View, layer: Layer) -> str:
    if layer.data.kind != "quantized" or layer.weight.kind != "quantized":
        return ""
    if layer.node.op_type == "ConvTranspose":
        return "conv_transpose"
    if any(_several(quant) for quant in layer.data.quants):
        return "per_channel_activation"
    if layer.weight.quant.dtype in _FOUR:
        return "int4"
    if layer.weight.quant.block_size:
        return "weight_only"
    if layer.node.op_type == "Conv":
        return "fp8_kernel" if _large_fp8(view, layer) else "weight_axis" if _wrong_axis(view, layer) else ""
    return "attention_split" if layer.has_weight and splits_attention(view, layer.node) else ""


def _large_fp8(view: View, layer: Layer) -> bool:
    kernel = view.shapes.get(layer.weight.quant.tensor, ())[2:]
    return layer.weight.quant.dtype == TensorProto.FLOAT8E4M3FN and math.prod(kernel) > LARGEST_FP8_KERNEL


def _several(quant: Quant) -> bool:
    """Whether an activation's scale is a list; TensorRT takes a list of one for per-channel too."""
    return quant.scale is not None and quant.scale.ndim > 0


def _wrong_axis(view: View, layer: Layer) -> bool:
    axis = _output_axis(view, layer)
    quant = layer.weight.quant
    return quant.per_channel and not layer.weight.transposes and axis is not None and quant.axis != axis


def _output_axis(view: View, layer: Layer) -> int | None:
    """The axis of a weight's output channels; None where it is not known."""
    rank = len(view.shapes.get(layer.node.input[layer.index], ())) or len(
        view.shapes.get(layer.weight.quant.tensor, ())
    )
    match layer.node.op_type:
        case "Conv":
            return 0
        case "Gemm" if layer.index == 1:
            return 0 if attribute(layer.node, "transB", 0) else 1
        case "MatMul" if rank:
            return rank - 1 if layer.index == 1 else rank - 2
        case _:
            return None


# --- findings


def findings(view: View, target: Takes) -> Iterator[Finding]:
    """What is wrong with the layers of a graph, for targets that choose INT8 by the position of Q/DQ."""
    if not target.tensorrt:
        return
    found = layers(view)
    for layer in found:
        yield from _of_layer(view, layer, target)
    yield from _float_between(view, found)


def _of_layer(view: View, layer: Layer, target: Takes) -> Iterator[Finding]:
    match layer.data.kind, layer.weight.kind:
        case "quantized", "quantized":
            yield from _of_quantized(view, layer, target)
        case "blocked", "quantized":
            yield _blocked(view, layer, target)
        case "float", "quantized":
            yield _weight_only(layer, target) if layer.has_weight else _activation_only(layer)
        case "quantized", _:
            yield _activation_only(layer)
        case _:
            return


def _blocked(view: View, layer: Layer, target: Takes) -> Finding:
    blocker = layer.data.blocker if layer.data.blocker is not None else layer.node
    name = f"{blocker.op_type} {view.label(blocker)}"
    why = (
        f"{target.name} cannot compute that in INT8, so this {layer.node.op_type} silently runs in float, its weights "
        "dequantized at run time"
    )
    if blocker.op_type == "Concat":
        return Finding(
            "concat_scales",
            "changed",
            layer.label,
            f"the Q/DQ of its input lie before {name}, and have different scales",
            why,
            tie_advice(view, blocker),
            fixable=tied_pairs(view, blocker) is not None,
        )
    return Finding(
        "not_int8_through",
        "changed",
        layer.label,
        f"the Q/DQ of its input lie before {name}",
        why,
        f"put the Q/DQ behind {name}",
        fixable=pair_to_move(view, layer) is not None,
    )


@dataclass(frozen=True, eq=False)
class Move:
    """A pair of Q/DQ, and the operators that it can move behind without changing a number, the layer's end first."""

    pair: Pair
    chain: tuple[onnx.NodeProto, ...]


def pair_to_move(view: View, layer: Layer) -> Move | None:
    """The pair before a layer's blocker, if only Relu and copies of values lie between: they commute with rounding."""
    chain: list[onnx.NodeProto] = []
    tensor = layer.node.input[1 - layer.index]
    while view.dequantized(tensor) is None:
        node = view.producer.get(tensor)
        if node is None or not _commutes(node):
            return None
        chain.append(node)
        tensor = node.input[0]
    pair = view.pair(tensor)
    usable = pair is not None and pair[0].same_grid(pair[1]) and scale_of(pair) is not None
    return Move(pair, tuple(chain)) if pair is not None and usable else None


def _commutes(node: onnx.NodeProto) -> bool:
    """Whether rounding before the operator equals rounding behind it, bit by bit."""
    if node.op_type == "Resize":
        return attribute(node, "mode", b"nearest") in {b"nearest", "nearest"}
    return node.op_type in {"Relu", "MaxPool", "Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}


def _of_quantized(view: View, layer: Layer, target: Takes) -> Iterator[Finding]:
    op = layer.node.op_type
    match layer.obstacle:
        case "conv_transpose":
            yield Finding(
                "conv_transpose",
                "slower",
                layer.label,
                "a ConvTranspose with Q/DQ",
                f"{target.name} has no INT8 kernel for it: it runs in float, with weights dequantized at run time",
                "leave it float",
            )
        case "attention_split" | "fp8_kernel":
            yield _float_by_shape(layer, target)
        case "per_channel_activation":
            yield from _listed_scale(view, layer, target)
        case "weight_only":
            yield _weight_only(layer, target)
        case "int4":
            yield Finding(
                "integer_type",
                "refused",
                layer.label,
                "int4 weights, and an int8 input",
                f"{target.name} has no kernel for the two together",
                "quantize the weights to int8, or leave the input float",
            )
        case "weight_axis":
            axis = _output_axis(view, layer)
            yield Finding(
                "weight_axis",
                "changed",
                layer.label,
                f"weight scales along axis {layer.weight.quant.axis}; a {op}'s output channels are on axis {axis}",
                f"{target.name} silently runs it in float, its weights dequantized at run time",
                f"quantize the weights along axis {axis}",
            )
        case _:
            if _wrong_axis(view, layer):
                yield Finding(
                    "weight_axis",
                    "slower",
                    layer.label,
                    f"weight scales along axis {layer.weight.quant.axis}, which the product sums over",
                    "the scales cannot be taken out of the sum: each product is rescaled",
                    f"quantize the weights along axis {_output_axis(view, layer)}",
                )
            yield from _costs(view, layer)


def _float_by_shape(layer: Layer, target: Takes) -> Finding:
    if layer.obstacle == "fp8_kernel":
        return Finding(
            "fp8_kernel",
            "changed",
            layer.label,
            f"an FP8 convolution with a kernel of more than {LARGEST_FP8_KERNEL} values",
            f"{target.name} silently runs it in float, its weights dequantized at run time",
            "leave it float, or quantize it to int8",
        )
    seen = target.name == "TensorRT-RTX"
    return Finding(
        "attention_split",
        "changed" if seen else "note",
        layer.label,
        "one product for several operands of attention, as query, key and value",
        "TensorRT-RTX takes it apart, and silently computes it in float"
        + ("" if seen else f"; see in the layer map what {target.name} does"),
        "make it a product each for query, key and value, or leave it float",
    )


def _listed_scale(view: View, layer: Layer, target: Takes) -> Iterator[Finding]:
    quant = next(q for q in layer.data.quants if _several(q))
    if quant.per_channel:
        yield Finding(
            "per_channel_activation",
            "changed",
            layer.label,
            f"its input has a scale per channel ({quant.label})",
            f"{target.name} silently runs it in float, its weights dequantized at run time",
            "divide by the scales in the graph, and multiply the weights by them"
            if _will_unfold(view, layer)
            else "quantize the input per tensor; equalize the channels first, or smooth them, where they differ much",
            fixable=_will_unfold(view, layer),
        )
    else:
        yield Finding(
            "scale_shape",
            "changed",
            layer.label,
            f"its input's scale is a list of one ({quant.label})",
            f"{target.name} takes it for per-channel, and silently runs the layer in float",
            "make the scale and the zero point scalars",
            fixable=True,
        )


def unfolds(view: View, layer: Layer) -> bool:
    """Whether the scales per channel of a layer's input can become a division, and a factor in its weights' scales.

    That changes no number where every output channel reads one input channel: in a depthwise convolution.
    """
    return _has_shape_to_unfold(view, layer) and all(_is_plain(q) for q in (layer.data.quant, layer.weight.quant))


def _will_unfold(view: View, layer: Layer) -> bool:
    """Whether it can when zero points are gone that can be repaired."""
    quants = (layer.data.quant, layer.weight.quant)
    return _has_shape_to_unfold(view, layer) and all(_is_plain(q) or refittable(view, q) for q in quants)


def _has_shape_to_unfold(view: View, layer: Layer) -> bool:
    data, weight, node = layer.data.quant, layer.weight.quant, layer.node
    direct = view.pair(node.input[0]) is not None and view.dequantized(node.input[1]) is weight and layer.index == 1
    shape = view.shapes.get(weight.tensor, ())
    depthwise = len(shape) > 2 and shape[1] == 1 and data.scale is not None and data.scale.shape == (_groups(node),)
    placed = data.axis == 1 and weight.tensor in view.tensors and (not weight.per_channel or weight.axis == 0)
    return node.op_type == "Conv" and direct and depthwise and placed


def _is_plain(quant: Quant) -> bool:
    """Whether it is int8 around 0, with float32 scales."""
    symmetric = quant.zero_point is None or not quant.zero_point.any()
    single = quant.scale is not None and quant.scale.dtype == np.float32
    return quant.dtype == TensorProto.INT8 and symmetric and single


def _groups(node: onnx.NodeProto) -> int:
    return int(str(attribute(node, "group", 1)))


def _weight_only(layer: Layer, target: Takes) -> Finding:
    wide = layer.node.op_type in {"Conv", "ConvTranspose"}
    if wide and layer.weight.quant.dtype in _FOUR and target.formats.int4 == "matrix products":
        return Finding(
            "integer_type",
            "refused",
            layer.label,
            "a convolution with int4 weights",
            f"{target.name} takes int4 in matrix products only",
            "quantize the weights to int8",
        )
    if wide and not target.formats.weight_only:
        return Finding(
            "weight_only",
            "refused",
            layer.label,
            "its weights have Q/DQ, its input has none",
            f"{target.name} gives up: 'Could not fuse 2nd input (kernel weights) of CONVOLUTION'",
            "quantize the input too, or store the weights in float",
        )
    return Finding(
        "weight_only",
        "slower",
        layer.label,
        "only its weights are quantized",
        "it runs in float, with weights dequantized at run time: smaller, not faster",
        "quantize the input too, unless size is all that is wanted",
    )


def _activation_only(layer: Layer) -> Finding:
    others = "weights have" if layer.has_weight else "other input has"
    return Finding(
        "activation_only",
        "slower",
        layer.label,
        f"its input has Q/DQ, its {others} none",
        "it runs in float, on rounded values: the accuracy of INT8 at the speed of float",
        "quantize the other operand too, or take the Q/DQ off its input",
    )


def _costs(view: View, layer: Layer) -> Iterator[Finding]:
    shape = view.shapes.get(layer.weight.quant.tensor, ())
    group = _groups(layer.node)
    if layer.node.op_type == "Conv" and len(shape) > 2 and group > 1 and shape[1] == 1:
        yield Finding(
            "depthwise",
            "slower",
            layer.label,
            "a depthwise convolution in INT8",
            "each channel is padded to four: often slower than FP16, and its input is the hardest to quantize",
            "leave it float, and measure both",
        )
    elif len(shape) > 1 and layer.has_weight and 0 < min(shape[0] // group, shape[1]) < _CHEAP_CHANNELS:
        channels = f"{shape[1]} input and {shape[0] // group} output channels" + (" a group" if group > 1 else "")
        yield Finding(
            "few_channels",
            "slower",
            layer.label,
            channels if layer.node.op_type == "Conv" else f"a weight of {shape[0]} x {shape[1]}",
            f"INT8 kernels pad fewer than {_CHEAP_CHANNELS} channels: little or nothing is gained",
            "leave it float where the accuracy counts, and measure both",
        )


def _float_between(view: View, found: list[Layer]) -> Iterator[Finding]:
    """Float layers whose inputs all come from INT8 layers and whose outputs all go to INT8 layers."""
    by_output = {layer.node.output[0]: layer for layer in found}
    before = {id(layer): _neighbours_before(view, layer, by_output) for layer in found}
    after: dict[int, list[Layer]] = {id(layer): [] for layer in found}
    for layer in found:
        for source in before[id(layer)]:
            after[id(source)].append(layer)
    for layer in found:
        around = [*before[id(layer)], *after[id(layer)]]
        wanted = layer.data is FLOAT and layer.weight is FLOAT and layer.node.op_type != "ConvTranspose"
        if wanted and before[id(layer)] and after[id(layer)] and all(each.int8 for each in around):
            yield Finding(
                "float_between_int8",
                "slower",
                layer.label,
                f"a float {layer.node.op_type} between INT8 layers",
                "the values are converted from INT8 and back around it",
                "quantize it too, unless the accuracy needs it float",
            )


def _neighbours_before(view: View, layer: Layer, by_output: dict[str, Layer]) -> list[Layer]:
    """The nearest weighted layers that a layer's data comes from."""
    found: list[Layer] = []
    seen: set[str] = set()
    stack = [name for name in layer.node.input if name]
    while stack:
        tensor = stack.pop()
        if tensor in seen or tensor in view.constant:
            continue
        seen.add(tensor)
        if tensor in by_output:
            found.append(by_output[tensor])
        else:
            node = view.producer.get(tensor)
            stack.extend(name for name in (node.input if node is not None else ()) if name)
    return found
