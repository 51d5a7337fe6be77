"""Q/DQ that break a fusion, round twice, or cost a conversion: TensorRT fuses by their position.

Source: NVIDIA TensorRT documentation, "Q/DQ Layer-Placement Recommendations"; NVIDIA/TensorRT issues 1144, 2067, 3861.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto

from engines.lint.finding import Finding
from engines.lint.flow import ACTIVATIONS, GATES, feed, silu_input
from engines.lint.targets import Takes
from engines.lint.view import Quant, View
from engines.onnx_graph import is_standard, is_weighted

_SCALES = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})
_FLOAT_ONLY = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax", "Softmax", "AveragePool"}
    | {"GlobalAveragePool", "ReduceMean", "Erf", "Exp", "Sqrt"}
    | GATES
)
WIDEST_SPREAD = 4.0
"""How far apart scales may be that are tied: two bits of eight are lost at the narrower tensor."""
Pair = tuple[Quant, Quant]


def findings(view: View, target: Takes) -> Iterator[Finding]:
    """What Q/DQ of a graph stand in the way, for targets that fuse by position."""
    if not target.tensorrt:
        return
    for pair in pairs(view):
        yield from _of_pair(view, pair)
    for node in view.nodes:
        if is_standard(node) and node.op_type == "Add":
            yield from _residual(view, node)
        elif is_standard(node) and node.op_type == "Concat":
            yield from _concat(view, node)


def pairs(view: View) -> list[Pair]:
    """The pairs of Q/DQ on activations, in graph order."""
    found = (view.pair(name) for name in view.quants)
    return [pair for pair in found if pair is not None and pair[0].tensor not in view.constant]


def _of_pair(view: View, pair: Pair) -> Iterator[Finding]:
    quantize, dequantize = pair
    inner = view.pair(quantize.tensor)
    if inner is not None:
        yield _two_pairs(view, inner, pair)
    elif before_activation(view, pair):
        reader = view.readers(dequantize.output)[0]
        yield Finding(
            "qdq_before_activation",
            "slower",
            quantize.label,
            f"Q/DQ between {_maker(view, quantize)} and {reader.op_type} {view.label(reader)}",
            "they keep the two from being one kernel, and round once more",
            "put them behind the activation",
            fixable=removable(view, pair),
        )
    elif inside_activation(view, pair):
        yield Finding(
            "qdq_inside_activation",
            "slower",
            quantize.label,
            f"Q/DQ inside x * {_maker(view, quantize)}",
            "they split the activation, and round once more",
            "quantize what comes out of the product",
            fixable=removable(view, pair),
        )
    else:
        yield from _float_operator(view, pair)


def _maker(view: View, quantize: Quant) -> str:
    node = view.producer.get(quantize.tensor)
    return f"{node.op_type} {view.label(node)}" if node is not None else quantize.tensor


def _two_pairs(view: View, inner: Pair, outer: Pair) -> Finding:
    where = outer[0].label
    if outer[0].same_grid(inner[1]):
        return Finding(
            "double_qdq",
            "slower",
            where,
            f"Q/DQ right behind equal ones ({inner[0].label})",
            "they change nothing",
            "take them out",
            fixable=removable(view, outer),
        )
    return Finding(
        "requantize",
        "slower",
        where,
        f"Q/DQ right behind others ({inner[0].label}) with another scale",
        "the values are rounded twice, and converted in between",
        "quantize once, with one scale",
    )


def removable(view: View, pair: Pair) -> bool:
    """Whether a pair can be taken out: nothing else reads its integers, and it is no graph output."""
    quantize, dequantize = pair
    alone = len(view.readers(quantize.output)) == 1 and quantize.output not in view.outputs
    captured = any(index < 0 for _, index in view.uses.get(dequantize.output, ()))
    return alone and not captured and dequantize.output not in view.outputs


# --- between a layer and its activation


def before_activation(view: View, pair: Pair) -> bool:
    """Whether a pair lies between a weighted layer, or its normalization, and the activation that belongs to it."""
    maker = view.producer.get(pair[0].tensor)
    readers = view.readers(pair[1].output)
    if maker is None or not readers or not _ends_layer(view, maker) or pair[1].output in view.outputs:
        return False
    return all(_is_epilogue(view, node, pair[1].output) for node in readers)


def _ends_layer(view: View, node: onnx.NodeProto) -> bool:
    """Whether a node is a weighted layer, or scales and shifts the channels of one."""
    while is_standard(node) and node.op_type in _SCALES:
        data = [name for name in node.input if name and name not in view.constant]
        source = view.producer.get(data[0]) if len(data) == 1 else None
        if source is None:
            return False
        node = source
    return is_weighted(node)


def _is_epilogue(view: View, node: onnx.NodeProto, tensor: str) -> bool:
    """Whether a node normalizes or activates a tensor, and does nothing else."""
    if not is_standard(node):
        return False
    if node.op_type == "Mul" and silu_input(view, node) == tensor:
        return True
    others = [name for name in node.input if name and name != tensor]
    return node.op_type in ACTIVATIONS | _SCALES and view.constant.issuperset(others)


def inside_activation(view: View, pair: Pair) -> bool:
    """Whether a pair lies on the gate of x * gate(x)."""
    maker = view.producer.get(pair[0].tensor)
    readers = view.readers(pair[1].output)
    if maker is None or maker.op_type not in GATES or len(readers) != 1 or not is_standard(readers[0]):
        return False
    return pair[1].output in readers[0].input and silu_input(view, readers[0]) not in {None, pair[1].output}


def _float_operator(view: View, pair: Pair) -> Iterator[Finding]:
    """A pair that only operators read that compute in float: it rounds, and nothing is faster."""
    readers = view.readers(pair[1].output)
    if readers and all(is_standard(n) and n.op_type in _FLOAT_ONLY for n in readers):
        node = readers[0]
        yield Finding(
            "float_operator",
            "slower",
            pair[0].label,
            f"Q/DQ on the input of {node.op_type} {view.label(node)}",
            "that runs in float anyhow: the values are rounded, and nothing is gained",
            "take them out",
        )


# --- additions


def _residual(view: View, node: onnx.NodeProto) -> Iterator[Finding]:
    sides = residual_sides(view, node)
    if sides is None:
        return
    branch, skip = sides
    quantized = view.pair(branch), view.pair(skip)
    if quantized[0] is not None:
        yield Finding(
            "residual_conv_side",
            "slower",
            view.label(node),
            f"Q/DQ between {_maker(view, quantized[0][0])} and the addition",
            "they keep the addition from joining that layer's kernel",
            "quantize the skip side only",
            fixable=quantized[1] is not None and unread_elsewhere(view, quantized[0]),
        )
    if quantized[1] is None and _is_private(view, branch):
        yield Finding(
            "residual_skip_float",
            "slower",
            view.label(node),
            "the skip side of a residual addition is float",
            "the layer's kernel reads and adds it in float, where INT8 would be a quarter of the traffic",
            "put Q/DQ on the skip side",
        )


def _is_private(view: View, branch: str) -> bool:
    """Whether an addition can join a convolution's kernel: nothing else needs what the kernel computes before it."""
    inside: set[int] = set()
    stack = [branch]
    while stack:
        tensor = stack.pop()
        node = view.producer[tensor]
        outside = [reader for reader, _ in view.uses.get(tensor, ()) if id(reader) not in inside]
        if tensor in view.outputs or len(outside) > (tensor == branch):
            return False
        inside.add(id(node))
        if not is_weighted(node):
            stack += [name for name in node.input if name and name not in view.constant]
    return _layer_kind(view, branch) == "Conv"


def _layer_kind(view: View, tensor: str) -> str:
    node = _layer_behind(view, tensor)
    return str(node.op_type) if node is not None else ""


def unread_elsewhere(view: View, pair: Pair) -> bool:
    """Whether one node alone reads what a removable pair makes."""
    return removable(view, pair) and len(view.readers(pair[1].output)) == 1


def residual_sides(view: View, add: onnx.NodeProto) -> tuple[str, str] | None:
    """The inputs of a residual addition, the branch of an INT8 layer first; None for any other addition."""
    if len(add.input) != 2 or add.input[0] == add.input[1] or view.constant.intersection(add.input):
        return None
    order = {id(node): place for place, node in enumerate(view.nodes)}
    found = [_layer_behind(view, name) for name in add.input]
    places = [order[id(node)] if node is not None and _is_int8(view, node) else -1 for node in found]
    if max(places) < 0 or places[0] == places[1]:
        return None
    quantized = [view.pair(name) is not None for name in add.input]
    # Two layers meet: either may take the addition along, and the one without Q/DQ does.
    branch = quantized.index(False) if min(places) >= 0 and any(quantized) and not all(quantized) else None
    branch = places.index(max(places)) if branch is None else branch
    return str(add.input[branch]), str(add.input[1 - branch])


def _layer_behind(view: View, tensor: str) -> onnx.NodeProto | None:
    """The weighted layer whose output, normalized and activated at most, a tensor is; past Q/DQ."""
    step: str | None = tensor
    while step is not None:
        pair = view.pair(step)
        node = view.producer.get(pair[0].tensor if pair else step)
        if node is None or not is_standard(node):
            return None
        if is_weighted(node):
            return node
        step = _activated(view, node)
    return None


def _activated(view: View, node: onnx.NodeProto) -> str | None:
    if node.op_type == "Mul" and (found := silu_input(view, node)) is not None:
        return found
    data = [name for name in node.input if name and name not in view.constant]
    return data[0] if len(data) == 1 and node.op_type in ACTIVATIONS | _SCALES else None


def _is_int8(view: View, node: onnx.NodeProto) -> bool:
    return all(view.dequantized(name) is not None for name in node.input[:2])


# --- concatenations


def _concat(view: View, node: onnx.NodeProto) -> Iterator[Finding]:
    data = [name for name in node.input if name not in view.constant]
    found = [pair for name in data if (pair := view.pair(name)) is not None]
    if found and len(found) < len(data):
        yield Finding(
            "concat_partly_float",
            "slower",
            view.label(node),
            f"{len(found)} of {len(data)} inputs have Q/DQ",
            "the others are converted, or all of them back",
            "quantize all of them, with one scale, or none",
        )
    elif len({scale_of(pair) for pair in found}) > 1:
        yield Finding(
            "concat_scales",
            "slower",
            view.label(node),
            "its inputs have different scales",
            "all but one are requantized; a layer right behind it runs in float",
            tie_advice(view, node),
            fixable=tied_pairs(view, node) is not None,
        )


def scale_of(pair: Pair) -> float | None:
    """The one scale of a pair; None where it has several, or none that is known."""
    scale = pair[0].scale
    return float(scale.item()) if scale is not None and scale.size == 1 else None


def tied_pairs(view: View, concat: onnx.NodeProto) -> list[Pair] | None:
    """The pairs on the inputs of a Concat, past operators that move values, and those on its output.

    None where they cannot be given one scale: an input without a pair, zero points, several scales, unknown ones, or
    scales so far apart that the narrower tensor would lose its digits.
    """
    found = _concat_pairs(view, concat)
    return found if found is not None and spread(found) <= WIDEST_SPREAD else None


def spread(tied: Iterable[Pair]) -> float:
    """The largest scale over the smallest."""
    scales = [scale for pair in tied if (scale := scale_of(pair)) is not None]
    return max(scales) / min(scales) if scales else 1.0


def tie_advice(view: View, concat: onnx.NodeProto) -> str:
    """What to do about different scales at a Concat."""
    found = _concat_pairs(view, concat)
    far = found is not None and spread(found) > WIDEST_SPREAD
    apart = f"leave one side float: they are {spread(found):.3g} times apart" if found is not None and far else ""
    return apart or "give them one scale"


def _concat_pairs(view: View, concat: onnx.NodeProto) -> list[Pair] | None:
    found: list[Pair] = []
    for name in concat.input:
        for quant in feed(view, name).quants or (None,):
            pair = view.pair(quant.output) if quant is not None else None
            if pair is None or not _tieable(view, pair):
                return None
            found.append(pair)
    behind = [view.quants.get(node.output[0]) for node in view.readers(concat.output[0])]
    for each in behind:
        readers = view.readers(each.output) if each is not None and each.quantizes else []
        pair = view.pair(readers[0].output[0]) if readers else None
        found += [pair] if pair is not None and _tieable(view, pair) else []
    return found


def _tieable(view: View, pair: Pair) -> bool:
    """Whether a pair can be given another scale: int8 around 0, per tensor, and nothing else reads the integers."""
    symmetric = pair[0].zero_point is None or not pair[0].zero_point.any()
    known = pair[0].dtype == TensorProto.INT8 and scale_of(pair) is not None and pair[0].same_grid(pair[1])
    readers = [view.dequantized(node.output[0]) for node in view.readers(pair[0].output)]
    return symmetric and known and all(each is not None for each in readers) and pair[0].output not in view.outputs
