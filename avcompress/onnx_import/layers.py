"""Weighted layers, normalizations, softmax and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avcompress.onnx_import.operand import Call, OnnxNode, normalized

Sizes = tuple[int, ...]
Geometry = tuple[Sizes, Sizes, int]
"""Stride, dilation, groups."""
_CONVS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def padded_conv(x: Tensor, weight: Tensor, bias: Tensor | None, pads: Sizes, geometry: Geometry) -> Tensor:
    """A convolution padded differently at its two ends; `pads` as F.pad takes them."""
    stride, dilation, groups = geometry
    return _CONVS[weight.dim() - 3](F.pad(x, pads), weight, bias, stride, 0, dilation, groups)


def cropped_conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None, pads: Sizes, geometry: Geometry) -> Tensor:
    """A transposed convolution cropped differently at its two ends; `pads` as F.pad takes them."""
    stride, dilation, groups = geometry
    return F.pad(_TRANSPOSED[weight.dim() - 3](x, weight, bias, stride, 0, 0, groups, dilation), pads)


def gemm(a: Tensor, b: Tensor, c: Tensor | None, scales: tuple[float, float], transposed: tuple[bool, bool]) -> Tensor:
    """Alpha * A @ B + beta * C, A and B transposed first where asked."""
    left, right = a.t() if transposed[0] else a, b.t() if transposed[1] else b
    product = left @ right
    product = product if scales[0] == 1 else product * scales[0]
    if c is None:
        return product
    return product + (c if scales[1] == 1 else c * scales[1])


def batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> Tensor:
    """Batch normalization by its stored statistics, in training too."""
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, epsilon: float) -> Tensor:
    """Zero mean and unit variance over the dimensions from `axis` on, then scale and bias."""
    shape = x.shape[axis:]
    if scale.shape != shape:
        normal = F.layer_norm(x, shape, None, None, epsilon) * scale
        return normal if bias is None else normal + bias
    return F.layer_norm(x, shape, scale, bias, epsilon)


def rms_norm(x: Tensor, scale: Tensor, axis: int, epsilon: float) -> Tensor:
    """Unit root mean square over the dimensions from `axis` on, then scale."""
    square = x.square().mean(dim=tuple(range(axis, x.dim())), keepdim=True)
    return x * torch.rsqrt(square + epsilon) * scale


def group_norm(x: Tensor, scale: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    """Zero mean and unit variance over each group of channels, then scale and bias."""
    if scale.shape[0] == x.shape[1]:
        return F.group_norm(x, groups, scale, bias, epsilon)
    shape = (1, x.shape[1], *[1] * (x.dim() - 2))
    repeats = x.shape[1] // groups  # opsets 18 to 20 have one scale a group
    by_channel = [v.repeat_interleave(repeats).reshape(shape) for v in (scale, bias)]
    return F.group_norm(x, groups, None, None, epsilon) * by_channel[0] + by_channel[1]


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Zero mean and unit variance over each channel of each image, then scale and bias."""
    return F.group_norm(x, x.shape[1], scale, bias, epsilon)


def lp_norm(x: Tensor, axis: int, p: int) -> Tensor:
    """X divided by its norm along an axis."""
    norm: Tensor = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / norm


def flat_softmax(x: Tensor, axis: int, log: bool) -> Tensor:
    """Softmax over all the dimensions from `axis` on together, as opsets below 13 have it."""
    flat = x.reshape(*x.shape[:axis], -1)
    return (F.log_softmax(flat, -1) if log else F.softmax(flat, -1)).reshape(x.shape)


def reduce_prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """The product along some axes."""
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def reduce_l1(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """The sum of magnitudes along some axes."""
    return torch.sum(x.abs(), axes, keep)


def reduce_l2(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """The square root of the sum of squares along some axes."""
    return torch.sqrt(torch.sum(x.square(), axes, keep))


def reduce_log_sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """The logarithm of the sum along some axes."""
    return torch.log(torch.sum(x, axes, keep))


def reduce_sum_square(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """The sum of squares along some axes."""
    return torch.sum(x.square(), axes, keep)


def arg_extreme(x: Tensor, axis: int, keep: bool, smallest: bool, last: bool) -> Tensor:
    """The index of the largest or smallest value along an axis; of several the first, or the last."""
    find = torch.argmin if smallest else torch.argmax
    if not last:
        return find(x, axis, keep)
    return x.shape[axis] - 1 - find(x.flip(axis), axis, keep)


# --- how nodes become calls


def _lower_conv(node: OnnxNode) -> Call:
    weight, kernel, stride, dilation, groups = _geometry(node)
    pads = same_pads(node, kernel, stride, dilation)
    count = len(kernel)
    if weight.rank - 3 not in range(len(_CONVS)):
        raise node.error("a kernel of 1 to 3 dimensions", str(count), "rewrite that layer before the export")
    bias = node.optional(2)
    if pads[:count] == pads[count:]:
        return Call(_CONVS[count - 1], (node.x, weight, bias, stride, pads[:count], dilation, groups))
    return Call(padded_conv, (node.x, weight, bias, torch_pads(pads), (stride, dilation, groups)))


def _geometry(node: OnnxNode) -> tuple[Any, tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    weight = node.required(1)
    kernel = weight.shape[2:]
    ones = (1,) * len(kernel)
    stride = tuple(int(v) for v in node.attribute("strides", ones))
    dilation = tuple(int(v) for v in node.attribute("dilations", ones))
    return weight, kernel, stride, dilation, int(node.attribute("group", 1))


def same_pads(
    node: OnnxNode, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    """The attribute `pads`, or what `auto_pad` makes of the input's size; all befores, then all afters."""
    count, mode = len(kernel), node.attribute("auto_pad", "NOTSET")
    if mode in {"NOTSET", ""}:
        return tuple(int(v) for v in node.attribute("pads", (0,) * 2 * count))
    if mode == "VALID":
        return (0,) * 2 * count
    small, large = [], []
    for size, k, s, d in zip(node.x.shape[2:], kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small.append(total // 2)
        large.append(total - total // 2)
    return (*small, *large) if mode == "SAME_UPPER" else (*large, *small)


def torch_pads(pads: tuple[int, ...]) -> tuple[int, ...]:
    """From ONNX's order, all befores then all afters, to that of F.pad: pairs, the last dimension first."""
    count = len(pads) // 2
    return tuple(n for i in reversed(range(count)) for n in (pads[i], pads[count + i]))


def _lower_conv_transpose(node: OnnxNode) -> Call:
    weight, kernel, stride, dilation, groups = _geometry(node)
    count = len(kernel)
    extra = tuple(int(v) for v in node.attribute("output_padding", (0,) * count))
    pads = _transposed_pads(node, kernel, stride, dilation, extra)
    target, bias = _TRANSPOSED[count - 1], node.optional(2)
    fits = all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True))
    if pads[:count] == pads[count:] and fits:
        return Call(target, (node.x, weight, bias, stride, pads[:count], extra, groups, dilation))
    ends = (*(-n for n in pads[:count]), *(e - n for e, n in zip(extra, pads[count:], strict=True)))
    return Call(cropped_conv_transpose, (node.x, weight, bias, torch_pads(ends), (stride, dilation, groups)))


def _transposed_pads(
    node: OnnxNode, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], extra: tuple[int, ...]
) -> tuple[int, ...]:
    """The attribute `pads`, or what `output_shape` or `auto_pad` ask for."""
    count, mode = len(kernel), node.attribute("auto_pad", "NOTSET")
    wanted = node.attribute("output_shape")
    if wanted is None and not mode.startswith("SAME"):
        return tuple(int(v) for v in node.attribute("pads", (0,) * 2 * count)) if mode != "VALID" else (0,) * 2 * count
    sizes = [n * s for n, s in zip(node.x.shape[2:], stride, strict=True)] if wanted is None else wanted[-count:]
    totals = [
        s * (n - 1) + e + (k - 1) * d + 1 - size
        for n, s, e, k, d, size in zip(node.x.shape[2:], stride, extra, kernel, dilation, sizes, strict=True)
    ]
    halves, rests = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (*halves, *rests) if mode == "SAME_UPPER" else (*rests, *halves)


def _lower_gemm(node: OnnxNode) -> Call:
    scales = (float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0)))
    transposed = (bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0)))
    a, b, c = node.x, node.required(1), node.optional(2)
    if scales == (1.0, 1.0) and transposed == (False, True) and (c is None or c.rank == 1):
        return Call(F.linear, (a, b, c))
    return Call(gemm, (a, b, c, scales, transposed))


def _lower_matmul(node: OnnxNode) -> Call:
    return Call(torch.matmul, (node.x, node.required(1)))


def _lower_batch_norm(node: OnnxNode) -> Call:
    if node.attribute("training_mode", 0):
        raise node.error("batch normalization in inference mode", "in training mode", "export it in eval mode")
    return Call(batch_norm, (*(node.required(i) for i in range(5)), float(node.attribute("epsilon", 1e-5))))


def _lower_layer_norm(node: OnnxNode) -> Call:
    if len([name for name in node.proto.output if name]) > 1:
        raise node.error("one output", "the statistics too", "export it for inference")
    epsilon = float(node.attribute("epsilon", 1e-5))
    if node.kind == "RMSNormalization":
        return Call(rms_norm, (node.x, node.required(1), node.axis(-1), epsilon))
    return Call(layer_norm, (node.x, node.required(1), node.optional(2), node.axis(-1), epsilon))


def _lower_instance_norm(node: OnnxNode) -> Call:
    return Call(instance_norm, (node.x, node.required(1), node.required(2), float(node.attribute("epsilon", 1e-5))))


def _lower_group_norm(node: OnnxNode) -> Call:
    groups, epsilon = int(node.attribute("num_groups")), float(node.attribute("epsilon", 1e-5))
    return Call(group_norm, (node.x, node.required(1), node.required(2), groups, epsilon))


def _lower_lp_norm(node: OnnxNode) -> Call:
    return Call(lp_norm, (node.x, node.axis(-1), int(node.attribute("p", 2))))


def _lower_lrn(node: OnnxNode) -> Call:
    values = (node.attribute("alpha", 1e-4), node.attribute("beta", 0.75), node.attribute("bias", 1.0))
    return Call(F.local_response_norm, (node.x, int(node.attribute("size")), *map(float, values)))


def _lower_softmax(node: OnnxNode) -> Call:
    log = node.kind == "LogSoftmax"
    if node.opset < 13:
        return Call(flat_softmax, (node.x, node.axis(1), log))
    return Call(F.log_softmax if log else F.softmax, (node.x, node.axis(-1)))


def _lower_reduction(node: OnnxNode) -> Call:
    axes, keep = node.integers(1, "axes"), bool(node.attribute("keepdims", 1))
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            raise node.error("axes to reduce", "none", "drop that operator before the export")
        axes = list(range(node.x.rank))
    return Call(_REDUCTIONS[node.kind], (node.x, normalized(axes, node.x.rank), keep))


def _lower_arg(node: OnnxNode) -> Call:
    keep, last = bool(node.attribute("keepdims", 1)), bool(node.attribute("select_last_index", 0))
    return Call(arg_extreme, (node.x, node.axis(0), keep, node.kind == "ArgMin", last))


def _lower_cumsum(node: OnnxNode) -> Call:
    if node.attribute("exclusive", 0) or node.attribute("reverse", 0):
        raise node.error("a plain cumulative sum", "an exclusive or reversed one", "rewrite it before the export")
    (axis,) = node.integers(1) or [0]
    return Call(torch.cumsum, (node.x, axis))


_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL1": reduce_l1,
    "ReduceL2": reduce_l2,
    "ReduceLogSum": reduce_log_sum,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceProd": reduce_prod,
    "ReduceSum": torch.sum,
    "ReduceSumSquare": reduce_sum_square,
}

LOWERINGS: dict[str, Callable[[OnnxNode], Call]] = {
    **dict.fromkeys(_REDUCTIONS, _lower_reduction),
    "ArgMax": _lower_arg,
    "ArgMin": _lower_arg,
    "BatchNormalization": _lower_batch_norm,
    "Conv": _lower_conv,
    "ConvTranspose": _lower_conv_transpose,
    "CumSum": _lower_cumsum,
    "Gemm": _lower_gemm,
    "GroupNormalization": _lower_group_norm,
    "InstanceNormalization": _lower_instance_norm,
    "LRN": _lower_lrn,
    "LayerNormalization": _lower_layer_norm,
    "LogSoftmax": _lower_softmax,
    "LpNormalization": _lower_lp_norm,
    "MatMul": _lower_matmul,
    "RMSNormalization": _lower_layer_norm,
    "Softmax": _lower_softmax,
}
