"""Fake quantization with gradients for the step size and the zero point, in few passes over memory.

The values are those of ONNX QuantizeLinear and DequantizeLinear in float32. x on its grid, q(x, s), grows in proportion
when x and its step s do, so that Euler's theorem gives the gradient of the step from two products with what is there:

    s dq/ds = q - x dq/dx,    dq/dx = 1 where x is inside the range, else 0

which is LSQ's (round(x / s) - x / s inside, the nearest end of the range outside), times s.

Sources: straight-through: Bengio et al., arXiv:1308.3432; learned steps: Esser et al., LSQ, arXiv:1902.08153, eq. 3;
learned offsets: Bhalgat et al., LSQ+, arXiv:2004.09576, eq. 5; learned clipping: Choi et al., PACT, arXiv:1805.06085,
eq. 3: as LSQ's without what rounding does inside the range.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from avcompress.onnx_import.quantized import FP8_MAX

Grid = tuple[int, int] | None
"""The smallest and the largest integer; None is the FP8 type E4M3."""


class Rule(NamedTuple):
    """How a step learns.

    Attributes:
        factor: on its gradient, and the zero point's. Source: LSQ, section 2.2: 1 / sqrt(values x largest level).
        clipping: only what is clipped counts, as PACT has it.
    """

    factor: float = 1.0
    clipping: bool = False


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, grid: Grid, rule: Rule = Rule()) -> Tensor:  # noqa: B008
    """X rounded onto its grid and back; gradients for x, for the scale and the zero point where they ask for one.

    Args:
        x: any shape, float32.
        scale: > 0, float32, broadcasts to x: () per tensor, (1, C, 1, 1) per channel.
        zero_point: integer-valued, as scale; its gradient passes its own rounding straight through. None: 0.
        grid: the integers, or FP8, which has no zero point.
        rule: how the scale learns.
    """
    result: Tensor = _Quantize.apply(x, scale, zero_point, grid, rule)  # type: ignore[no-untyped-call]
    return result


class _Quantize(Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, scale, zero_point, grid, rule = args
        result = _rounded(x, scale, zero_point, grid)
        ctx.grid, ctx.rule = grid, rule
        learns = ctx.needs_input_grad[1]
        ctx.save_for_backward(x, scale, zero_point, result if learns else None)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, scale, zero_point, result = ctx.saved_tensors
        gradient = grads[0]
        inside = _inside(gradient, x, scale, zero_point, ctx.grid)
        by_scale = by_zero = None
        if ctx.needs_input_grad[1]:
            # PACT: inside the range the step changes nothing, so that q stands for x there.
            passed = result if ctx.rule.clipping else x
            by_scale = _difference(gradient, result, inside, passed, scale) * (ctx.rule.factor / scale)
        if zero_point is not None and ctx.needs_input_grad[2]:
            by_zero = (inside - gradient).sum_to_size(zero_point.shape) * (ctx.rule.factor * scale)
        return inside, by_scale, by_zero, None, None


def _rounded(x: Tensor, scale: Tensor, zero_point: Tensor | None, grid: Grid) -> Tensor:
    """In place, after the first division: memory is what this costs."""
    steps = x / scale
    if grid is None:
        return steps.clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).to(x.dtype).mul_(scale)
    steps.round_()
    if zero_point is None:
        return steps.clamp_(*grid).mul_(scale)
    # Rounded, then shifted: half to even, so the order decides ties.
    return steps.add_(zero_point).clamp_(*grid).sub_(zero_point).mul_(scale)


def _inside(gradient: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor | None, grid: Grid) -> Tensor:
    """The gradient where x is rounded rather than clipped, else 0."""
    low, high = (-FP8_MAX, FP8_MAX) if grid is None else (grid[0] - 0.5, grid[1] + 0.5)
    if scale.dim() == 0 and not x.is_cuda:  # one pass, where asking for a number costs nothing
        step, shift = float(scale), 0.0 if zero_point is None else float(zero_point)
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, (low - shift) * step, (high - shift) * step)
        return passed
    moved = 0.0 if zero_point is None else zero_point
    return gradient * ((x > (low - moved) * scale) & (x < (high - moved) * scale))


def _difference(a: Tensor, b: Tensor, c: Tensor, d: Tensor, scale: Tensor) -> Tensor:
    """The sums of a b - c d over what shares a scale; of the scale's shape."""
    if scale.dim() == 0:
        return torch.dot(a.reshape(-1), b.reshape(-1)) - torch.dot(c.reshape(-1), d.reshape(-1))
    return torch.addcmul(a * b, c, d, value=-1).sum_to_size(scale.shape)
