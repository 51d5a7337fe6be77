"""Pooling: windows, and whole maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avcompress.onnx_import.layers import same_pads, torch_pads
from avcompress.onnx_import.operand import Call, OnnxNode

Sizes = tuple[int, ...]
_MAX: tuple[Callable[..., Any], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def padded_max_pool(x: Tensor, kernel: Sizes, stride: Sizes, dilation: Sizes, pads: Sizes, ceil: bool) -> Tensor:
    """Max pooling padded differently at its two ends, or by more than half a window; `pads` as ONNX has them."""
    wide = F.pad(x, torch_pads(pads), value=float("-inf"))
    pooled: Tensor = _MAX[len(kernel) - 1](wide, kernel, stride, 0, dilation, ceil_mode=ceil)
    return _without_empty(pooled, x, stride, pads) if ceil else pooled


def mean_pool(x: Tensor, kernel: Sizes, stride: Sizes, pads: Sizes, ceil: bool, include_pad: bool) -> Tensor:
    """Average pooling; `pads` are all befores, then all afters.

    With `include_pad` the padding counts as zeros, what a window of `ceil` mode reaches beyond it does not.
    """
    count = len(kernel)
    if pads[:count] == pads[count:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False)):
        pool: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[count - 1]
        return pool(x, kernel, stride, pads[:count], ceil, include_pad)
    ends = torch_pads(pads)
    counted = F.pad(torch.ones_like(x[:1, :1]), ends, value=1.0 if include_pad else 0.0)
    sums = [_window_sum(v, kernel, stride, ceil) for v in (F.pad(x, ends), counted)]
    if ceil:
        sums = [_without_empty(v, x, stride, pads) for v in sums]
    return sums[0] / sums[1]


def _window_sum(x: Tensor, kernel: Sizes, stride: Sizes, ceil: bool) -> Tensor:
    if len(kernel) == 1:
        summed = F.avg_pool2d(x.unsqueeze(-2), (1, *kernel), (1, *stride), 0, ceil, divisor_override=1)
        return summed.squeeze(-2)
    pool: Callable[..., Tensor] = F.avg_pool2d if len(kernel) == 2 else F.avg_pool3d
    return pool(x, kernel, stride, 0, ceil, divisor_override=1)


def _without_empty(pooled: Tensor, x: Tensor, stride: Sizes, pads: Sizes) -> Tensor:
    """Drop a last window, of ceil mode, that would start in the padding after the input."""
    for axis, step in enumerate(stride, start=2):
        size = pooled.shape[axis]
        if (size - 1) * step >= x.shape[axis] + pads[axis - 2]:
            pooled = pooled.narrow(axis, 0, size - 1)
    return pooled


def global_mean(x: Tensor) -> Tensor:
    """The mean of each channel, its dimensions kept."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def global_max(x: Tensor) -> Tensor:
    """The maximum of each channel, its dimensions kept."""
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


# --- how nodes become calls


def _geometry(node: OnnxNode) -> tuple[Sizes, Sizes, Sizes, Sizes]:
    kernel = tuple(int(v) for v in node.attribute("kernel_shape"))
    ones = (1,) * len(kernel)
    stride = tuple(int(v) for v in node.attribute("strides", ones))
    dilation = tuple(int(v) for v in node.attribute("dilations", ones))
    return kernel, stride, dilation, same_pads(node, kernel, stride, dilation)


def _lower_max_pool(node: OnnxNode) -> Call:
    if len([name for name in node.proto.output if name]) > 1:
        raise node.error("one output", "the indices too", "unpool without them, or export another decoder")
    kernel, stride, dilation, pads = _geometry(node)
    ceil, count = bool(node.attribute("ceil_mode", 0)), len(kernel)
    before, after = pads[:count], pads[count:]
    if before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return Call(_MAX[count - 1], (node.x, kernel, stride, before, dilation), {"ceil_mode": ceil})
    return Call(padded_max_pool, (node.x, kernel, stride, dilation, pads, ceil))


def _lower_average_pool(node: OnnxNode) -> Call:
    kernel, stride, dilation, pads = _geometry(node)
    if any(d != 1 for d in dilation):
        raise node.error("windows without dilation", str(dilation), "rewrite that pooling before the export")
    include = bool(node.attribute("count_include_pad", 0))
    return Call(mean_pool, (node.x, kernel, stride, pads, bool(node.attribute("ceil_mode", 0)), include))


def _lower_global(node: OnnxNode) -> Call:
    return Call(global_mean if node.kind == "GlobalAveragePool" else global_max, (node.x,))


LOWERINGS: dict[str, Callable[[OnnxNode], Call]] = {
    "AveragePool": _lower_average_pool,
    "GlobalAveragePool": _lower_global,
    "GlobalMaxPool": _lower_global,
    "MaxPool": _lower_max_pool,
}
