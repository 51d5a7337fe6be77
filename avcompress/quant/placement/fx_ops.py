"""What each torch call becomes in ONNX: the operators that the exporter writes for it, in its order.

Source: torch/onnx/_internal/torchscript_exporter, symbolic_opset9.py to symbolic_opset17.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, fx

from avcompress.quant.placement.fx_call import Call, read_call
from avcompress.quant.placement.fx_sketch import Layer, Names, Sketch, is_tensor, pool_kind
from avcompress.quant.tracing import FAKE

Describe = Callable[[Call, Sketch], Names]


def describe_call(node: fx.Node, sketch: Sketch) -> None:
    """Add the operators of one call; one that is not known is opaque."""
    call = read_call(node, sketch.module)
    describe = _KNOWN.get(call.function)
    sketch.names[node] = _opaque(call, sketch) if describe is None else describe(call, sketch)
    if call.in_place and isinstance(call.args[0], fx.Node):
        sketch.names[call.args[0]] = sketch.names[node]  # who reads its input from now on gets the result


def _opaque(call: Call, sketch: Sketch) -> Names:
    return _outputs(call, sketch, f"torch.{call.function}", call.tensors())


def _outputs(call: Call, sketch: Sketch, kind: str, inputs: list[Any]) -> Names:
    """One operator with as many outputs as the call has."""
    value = call.node.meta[FAKE]
    if isinstance(value, Tensor):
        return sketch.add(kind, inputs, call.node.name)
    names = tuple(sketch.part(call.node, index) for index in range(len(value)))
    sketch.add(kind, inputs, call.node.name, names)
    return names


# --- weighted layers


def _conv(call: Call, sketch: Sketch) -> Names:
    weight, out = call.get(1, "weight"), call.node.meta[FAKE]
    shape, groups = sketch.shape(weight), int(call.get(6, "groups", 1))
    macs = int(np.prod(out.shape) * np.prod(shape[1:]))
    layer = Layer(weight, 0, (shape[1] * groups, shape[0]), groups, shape[2:])
    return _weighted(call, sketch, "Conv", layer, macs)


def _conv_transpose(call: Call, sketch: Sketch) -> Names:
    weight, data = call.get(1, "weight"), sketch.shape(call.args[0])
    shape, groups = sketch.shape(weight), int(call.get(6, "groups", 1))
    macs = int(np.prod(data) * np.prod(shape[1:]))
    layer = Layer(weight, 1, (shape[0], shape[1] * groups), groups, shape[2:])
    return _weighted(call, sketch, "ConvTranspose", layer, macs)


def _weighted(call: Call, sketch: Sketch, kind: str, layer: Layer, macs: int) -> str:
    inputs = [call.args[0], layer.weight, call.get(2, "bias")]
    data = call.args[0]
    if call.extra_padding:
        data = sketch.add("Pad", inputs[:1], f"{call.node.name}.pad", moves=True)
        sketch.names[call.node] = data
        inputs[0] = call.node
    sketch.add_weighted(kind, inputs, call.node.name, call.node.name, layer, macs)
    return call.node.name


def _linear(call: Call, sketch: Sketch) -> Names:
    """Gemm for vectors; a product and a sum for what has more dimensions."""
    weight, bias, name = call.get(1, "weight"), call.get(2, "bias"), call.node.name
    outputs, inputs = sketch.shape(weight)
    layer = Layer(weight, 0, (inputs, outputs))
    macs = int(np.prod(call.node.meta[FAKE].shape)) * inputs
    rank = len(sketch.shape(call.args[0]))
    if rank == 2 and bias is not None:
        sketch.add_weighted("Gemm", [call.args[0], weight, bias], name, name, layer, macs)
        return name
    product = name if bias is None else f"{name}.product"
    sketch.add_weighted("MatMul", [call.args[0], weight], name, product, layer, macs)
    return product if bias is None else sketch.add("Add", [sketch.name_of(bias), product], f"{name}.bias", (name,))


def _matmul(call: Call, sketch: Sketch) -> Names:
    left, right = call.args[0], call.get(1, "other")
    shape = sketch.shape(right)
    channels = (shape[-2], shape[-1]) if len(shape) > 1 else (0, 0)
    macs = int(np.prod(call.node.meta[FAKE].shape)) * sketch.shape(left)[-1]
    layer = Layer(right, len(shape) - 1, channels)
    sketch.add_weighted("MatMul", [left, right], call.node.name, call.node.name, layer, macs)
    return call.node.name


def _attention(call: Call, sketch: Sketch) -> Names:
    """Scaled dot-product attention: two products, each factor scaled before the first."""
    name, (query, key, value) = call.node.name, call.args[:3]
    mask = call.get(3, "attn_mask")
    width = sketch.shape(query)[-1]
    first = int(np.prod(sketch.shape(query))) * sketch.shape(key)[-2]
    turned = sketch.add("Transpose", [key], f"{name}.key")
    scaled = [sketch.add("Mul", [x, None], f"{name}.{i}") for i, x in enumerate((sketch.name_of(query), turned))]
    scores = _product(sketch, scaled, f"{name}.scores", first)
    scores = scores if mask is None else sketch.add("Add", [scores, sketch.name_of(mask)], f"{name}.mask")
    shares = sketch.add("Softmax", [scores], f"{name}.shares")
    return _product(sketch, [shares, sketch.name_of(value)], name, first // width * sketch.shape(value)[-1])


def _product(sketch: Sketch, inputs: list[str], name: str, macs: int) -> str:
    from avcompress.quant.placement.view import Op

    sketch.ops[name] = Op(name, "MatMul", tuple(inputs), (name,), macs=macs)
    return name


# --- normalizations


def _batch_norm(call: Call, sketch: Sketch) -> Names:
    if sketch.fold_into_producer(call.node, call.args[0], call.node.name):
        return call.node.name
    operands = [call.args[0], *(call.get(i, n) for i, n in _NORM_OPERANDS)]
    return sketch.add("BatchNormalization", operands, call.node.name)


_NORM_OPERANDS = ((3, "weight"), (4, "bias"), (1, "running_mean"), (2, "running_var"))


def _group_norm(call: Call, sketch: Sketch) -> Names:
    name, scale, bias = call.node.name, call.get(2, "weight"), call.get(3, "bias")
    grouped = sketch.add("Reshape", [call.args[0]], f"{name}.grouped")
    normal = sketch.add("InstanceNormalization", [grouped], f"{name}.normal")
    if scale is None:
        return sketch.add("Reshape", [normal], name)
    back = sketch.add("Reshape", [normal], f"{name}.back")
    scaled = sketch.add("Mul", [back, sketch.name_of(scale)], f"{name}.scaled")
    return sketch.add("Add", [scaled, sketch.name_of(bias)], name)


def _normalize(call: Call, sketch: Sketch) -> Names:
    name = call.node.name
    norm = sketch.add("ReduceL2", [call.args[0]], f"{name}.norm")
    bounded = sketch.add("Clip", [norm], f"{name}.bounded")
    wide = sketch.add("Expand", [bounded], f"{name}.wide")
    return sketch.add("Div", [sketch.name_of(call.args[0]), wide], name)


# --- activations and arithmetic of several operators


def _silu(call: Call, sketch: Sketch) -> Names:
    gate = sketch.add("Sigmoid", [call.args[0]], f"{call.node.name}.gate")
    return sketch.add("Mul", [sketch.name_of(call.args[0]), gate], call.node.name)


def _mish(call: Call, sketch: Sketch) -> Names:
    soft = sketch.add("Softplus", [call.args[0]], f"{call.node.name}.soft")
    gate = sketch.add("Tanh", [soft], f"{call.node.name}.gate")
    return sketch.add("Mul", [sketch.name_of(call.args[0]), gate], call.node.name)


def _gelu(call: Call, sketch: Sketch) -> Names:
    name, x = call.node.name, sketch.name_of(call.args[0])
    if call.get(1, "approximate", "none") == "tanh":
        cubed = sketch.add("Mul", [x, sketch.add("Mul", [x, x], f"{name}.square")], f"{name}.cube")
        inner = sketch.add("Add", [x, sketch.add("Mul", [cubed, None], f"{name}.small")], f"{name}.inner")
        curve = sketch.add("Tanh", [sketch.add("Mul", [inner, None], f"{name}.scaled")], f"{name}.curve")
    else:
        curve = sketch.add("Erf", [sketch.add("Div", [x, None], f"{name}.scaled")], f"{name}.curve")
    gated = sketch.add("Mul", [x, sketch.add("Add", [curve, None], f"{name}.gate")], f"{name}.gated")
    return sketch.add("Mul", [gated, None], name)


def _glu(call: Call, sketch: Sketch) -> Names:
    name = call.node.name
    halves = (f"{name}.left", f"{name}.right")
    sketch.add("Split", [call.args[0]], f"{name}.split", halves)
    return sketch.add("Mul", [halves[0], sketch.add("Sigmoid", [halves[1]], f"{name}.gate")], name)


def _add(call: Call, sketch: Sketch) -> Names:
    """With another factor than 1, the second operand is multiplied first."""
    left, right, kind = call.args[0], call.get(1, "other"), _ARITHMETIC[call.function]
    if call.function in {"radd", "rsub"}:
        left, right = right, left
    names = [sketch.name_of(left), sketch.name_of(right)]
    if call.get(2, "alpha", 1) != 1:
        names[1] = sketch.add("Mul", [names[1], None], f"{call.node.name}.scaled")
    return sketch.add(kind, names, call.node.name)


def _square(call: Call, sketch: Sketch) -> Names:
    return sketch.add("Mul", [call.args[0], call.args[0]], call.node.name)


def _rsqrt(call: Call, sketch: Sketch) -> Names:
    root = sketch.add("Sqrt", [call.args[0]], f"{call.node.name}.root")
    return sketch.add("Div", [None, root], call.node.name)


# --- pooling and reductions


def _pool(call: Call, sketch: Sketch) -> Names:
    kind = "MaxPool" if "max" in call.function else "AveragePool"
    shape, spatial = sketch.shape(call.args[0]), call.node.meta[FAKE]
    spatial = spatial[0] if isinstance(spatial, tuple) else spatial
    dims = len(shape) - 2
    window = call.get(1, "kernel_size")
    window = fx.node.map_arg(window, sketch.value_of)  # from the shape of a tensor: a pool over all of it
    windows = (window,) * dims if isinstance(window, int) else tuple(window)
    if set(spatial.shape[2:]) == {1}:
        kind = pool_kind(kind, shape, windows, None)
    return _outputs(call, sketch, kind, [call.args[0]])


def _adaptive_pool(call: Call, sketch: Sketch) -> Names:
    kind = "MaxPool" if "max" in call.function else "AveragePool"
    is_global = set(call.node.meta[FAKE].shape[2:]) == {1}
    return _outputs(call, sketch, f"Global{kind}" if is_global else kind, [call.args[0]])


def _reduce(call: Call, sketch: Sketch) -> Names:
    kind, shape = _REDUCTIONS[call.function], sketch.shape(call.args[0])
    axes = call.get(1, "dim")
    if call.function in {"max", "min"} and is_tensor(axes):
        return sketch.add({"max": "Max", "min": "Min"}[call.function], [call.args[0], axes], call.node.name)
    axes = tuple(range(len(shape))) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    if kind in {"ReduceMean", "ReduceMax"}:
        kind = pool_kind(kind, shape, None, axes)
    return _outputs(call, sketch, kind, [call.args[0]])


# --- what only moves values


def _same(call: Call, sketch: Sketch) -> Names:
    return sketch.name_of(call.args[0])


def _dropout(call: Call, sketch: Sketch) -> Names:
    return sketch.name_of(call.args[0])


def _flatten(call: Call, sketch: Sketch) -> Names:
    rank, start = len(sketch.shape(call.args[0])), call.get(1, "start_dim", 0)
    plain = start % rank == 1 and call.get(2, "end_dim", -1) % rank == rank - 1
    return sketch.add("Flatten" if plain else "Reshape", [call.args[0]], call.node.name)


def _pad(call: Call, sketch: Sketch) -> Names:
    moves = call.get(2, "mode", "constant") != "constant" or not call.get(3, "value", 0)
    return sketch.add("Pad", [call.args[0]], call.node.name, moves=moves)


def _resize(call: Call, sketch: Sketch) -> Names:
    moves = str(call.get(3, "mode", "nearest")).startswith("nearest")
    return sketch.add("Resize", [call.args[0]], call.node.name, moves=moves)


def _concat(call: Call, sketch: Sketch) -> Names:
    items = sketch.names_of(call.get(0, "tensors"))
    if call.function != "stack":
        return sketch.add("Concat", items, call.node.name)
    wide = [sketch.add("Unsqueeze", [item], f"{call.node.name}.{i}") for i, item in enumerate(items)]
    return sketch.add("Concat", wide, call.node.name)


def _chunk(call: Call, sketch: Sketch) -> Names:
    """A slice for each part."""
    names = tuple(sketch.part(call.node, i) for i in range(len(call.node.meta[FAKE])))
    return tuple(sketch.add("Slice", [call.args[0]], f"{call.node.name}.{n}", (n,)) for n in names)


def _unbind(call: Call, sketch: Sketch) -> Names:
    names = tuple(sketch.part(call.node, i) for i in range(len(call.node.meta[FAKE])))
    parts = tuple(f"{name}.part" for name in names)
    sketch.add("Split", [call.args[0]], call.node.name, parts)
    pairs = zip(names, parts, strict=True)
    return tuple(sketch.add("Squeeze", [part], f"{call.node.name}.{name}", (name,)) for name, part in pairs)


def _getitem(call: Call, sketch: Sketch) -> Names:
    """One operator for each dimension that is cut, picked or inserted."""
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    kinds = [kind for item in index if (kind := _index_kind(item))]
    current = sketch.name_of(call.args[0])
    for i, kind in enumerate(kinds):
        last = i == len(kinds) - 1
        current = sketch.add(kind, [current], call.node.name if last else f"{call.node.name}.{i}")
    return current


def _index_kind(item: Any) -> str:
    match item:
        case slice():
            return "" if item in (slice(None), slice(0, None)) else "Slice"
        case None:
            return "Unsqueeze"
        case _ if item is Ellipsis:
            return ""
        case _:
            return "Gather"


# --- tables


def _one(kind: str, operands: int = 1) -> Describe:
    """A call that is one operator of its first operands."""
    return lambda call, sketch: _outputs(call, sketch, kind, call.first(operands))


def _by_name(kinds: Mapping[str, str]) -> dict[str, str]:
    """The operator of every torch function, from the functions of every operator."""
    return {name: kind for kind, names in kinds.items() for name in names.split()}


_ARITHMETIC = _by_name(
    {
        "Add": "add iadd radd",
        "Sub": "isub rsub sub subtract",
    }
)
_REDUCTIONS = _by_name(
    {
        "ReduceL2": "norm",
        "ReduceLogSumExp": "logsumexp",
        "ReduceMax": "amax max",
        "ReduceMean": "mean",
        "ReduceMin": "amin min",
        "ReduceProd": "prod",
        "ReduceSum": "sum",
    }
)
_UNARY = _by_name(
    {
        "Abs": "abs",
        "Acos": "acos",
        "ArgMax": "argmax",
        "ArgMin": "argmin",
        "Asin": "asin",
        "Atan": "atan",
        "Ceil": "ceil",
        "Celu": "celu",
        "Clip": "clamp clamp_max clamp_min clip hardtanh relu6",
        "Cos": "cos",
        "CumSum": "cumsum",
        "DepthToSpace": "pixel_shuffle",
        "Elu": "elu",
        "Erf": "erf",
        "Exp": "exp",
        "Floor": "floor",
        "HardSigmoid": "hardsigmoid",
        "HardSwish": "hardswish",
        "InstanceNormalization": "instance_norm",
        "LRN": "local_response_norm",
        "LayerNormalization": "layer_norm",
        "LeakyRelu": "leaky_relu",
        "Log": "log",
        "LogSoftmax": "log_softmax",
        "Neg": "neg",
        "Not": "logical_not",
        "Reciprocal": "reciprocal",
        "Relu": "relu",
        "Round": "round",
        "Selu": "selu",
        "Sigmoid": "sigmoid",
        "Sign": "sign",
        "Sin": "sin",
        "Softmax": "softmax",
        "Softplus": "softplus",
        "Softsign": "softsign",
        "Sqrt": "sqrt",
        "Tan": "tan",
        "Tanh": "tanh",
        "TopK": "topk",
    }
)
_BINARY = _by_name(
    {
        "Div": "div floor_divide itruediv true_divide truediv",
        "Equal": "eq",
        "Greater": "gt",
        "GreaterOrEqual": "ge",
        "GridSample": "grid_sample",
        "Less": "lt",
        "LessOrEqual": "le",
        "Max": "maximum",
        "Min": "minimum",
        "Mod": "remainder",
        "Mul": "imul mul multiply",
        "PRelu": "prelu",
        "Pow": "pow",
    }
)
_MOVES = _by_name(
    {
        "Expand": "expand expand_as",
        "Gather": "index_select select",
        "Reshape": "reshape reshape_as unflatten view view_as",
        "Slice": "narrow",
        "Split": "split split_with_sizes",
        "Squeeze": "squeeze",
        "Tile": "repeat tile",
        "Transpose": "T mT permute swapaxes swapdims t transpose",
        "Unsqueeze": "unsqueeze",
    }
)
_KNOWN: dict[str, Describe] = {
    **{name: _one(kind) for name, kind in {**_UNARY, **_MOVES}.items()},
    **{name: _one(kind, 2) for name, kind in _BINARY.items()},
    "where": _one("Where", 3),
    "gather": _one("GatherElements", 3),
    **dict.fromkeys(_ARITHMETIC, _add),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"), _pool),
    **dict.fromkeys((f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)), _adaptive_pool),
    **dict.fromkeys(("contiguous", "clone", "detach", "to", "float", "type_as", "type", "identity"), _same),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"), _dropout),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _concat),
    "batch_norm": _batch_norm,
    "chunk": _chunk,
    "flatten": _flatten,
    "gelu": _gelu,
    "getitem": _getitem,
    "glu": _glu,
    "group_norm": _group_norm,
    "interpolate": _resize,
    "linear": _linear,
    "mish": _mish,
    "normalize": _normalize,
    "pad": _pad,
    "rsqrt": _rsqrt,
    "scaled_dot_product_attention": _attention,
    "silu": _silu,
    "square": _square,
    "unbind": _unbind,
}
