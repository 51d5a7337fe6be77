"""Parameters and fake quantization as modules whose learning rates mean the same in every layer.

What is trained are multiples of a unit, a power of two near the tensor's INT8 step, channel by channel: a rate of 0.01
moves a weight by about a hundredth of its step, whatever `equalize` or `smooth` have done to its channel. Scales are
their own start times e^growth, so that they stay above zero and move by shares of themselves. A power of two and e^0
change no bit: before it is trained, a module computes what the network does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avcompress.onnx_import.quantized import FP8_MAX
from avcompress.quant.learning.learned_steps import Grid, Rule, quantize


class Scaling(NamedTuple):
    """What a tensor's grid is at the start, and what of it learns.

    Attributes:
        scale: (), or any shape that broadcasts to the tensor.
        zero_point: integer-valued, of the scale's shape; None: 0.
        grid: the integers, or FP8.
        learns: the scale is trained.
        clipping: ... from what is clipped alone, as PACT has it.
        offset: the zero point is trained, too, as LSQ+ has it.
        recomputed: the scale follows the weight's largest magnitude instead.
    """

    scale: Tensor
    zero_point: Tensor | None
    grid: Grid
    learns: bool
    clipping: bool = False
    offset: bool = False
    recomputed: bool = False


class Scaled(nn.Module):
    """A parameter as `steps` times its unit."""

    unit: Tensor

    def __init__(self, value: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("unit", powers_of_two(unit))
        self.steps = nn.Parameter(value / self.unit)

    def forward(self) -> Tensor:
        """The value."""
        return self.steps * self.unit


class Bias(Scaled):
    """A layer's bias, less what the change of its weight gives on average: weights learn from how inputs vary.

    Without it every step of a weight shifts its whole output channel where inputs have a mean, above all where `ptq`
    has shifted them; which it does until the bias has caught up.
    """

    mean: Tensor
    origin: Tensor

    def __init__(self, value: Tensor, unit: Tensor, weight: Tensor) -> None:
        """`weight` is the layer's, (outputs, inputs, ...), as it begins; the inputs' mean is 0 until it is set."""
        super().__init__(value, unit)
        self.register_buffer("origin", weight.detach().clone())
        self.register_buffer("mean", torch.zeros(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2)))

    def set_mean_(self, inputs: Tensor) -> None:
        """Take the mean of each input channel, (channels,); a group of outputs reads its own."""
        by_group = inputs.reshape(-1, self.mean.shape[1])
        outputs = self.mean.shape[0] // len(by_group)
        self.mean.copy_(by_group.repeat_interleave(outputs, 0).reshape(self.mean.shape))

    def forward(self, weight: Tensor) -> Tensor:  # type: ignore[override]
        """The value, beside this weight."""
        change = ((weight - self.origin) * self.mean).flatten(1).sum(1)
        return self.steps * self.unit - change


class Quantizer(nn.Module):
    """Rounds tensors onto one grid and back: those that are tied share it."""

    base: Tensor
    start: Tensor | None

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        self.grid, self.clipping, self.recomputed = scaling.grid, scaling.clipping, scaling.recomputed
        self.register_buffer("base", scaling.scale.clone())
        self.register_buffer("start", None if scaling.zero_point is None else scaling.zero_point.clone())
        self.growth = nn.Parameter(torch.zeros_like(scaling.scale)) if scaling.learns else None
        moves = scaling.offset and scaling.zero_point is not None and scaling.grid is not None
        self.offset = nn.Parameter(torch.zeros_like(scaling.scale)) if moves else None

    def scale(self) -> Tensor:
        """As it is by now."""
        return self.base if self.growth is None else self.base * self.growth.exp()

    def zero_point(self) -> Tensor | None:
        """As it is by now: an integer, whose rounding gradients pass; `offset` is in widths of the grid."""
        if self.start is None or self.offset is None or self.grid is None:
            return self.start
        moved = self.start + self.offset * (self.grid[1] - self.grid[0])
        moved = moved + (moved.round() - moved).detach()
        return moved.clamp(*self.grid)

    def forward(self, x: Tensor) -> Tensor:
        """The values of x on the grid."""
        return self.rounded(x.float(), self.scale(), x.numel() // max(x.shape[0], 1) if x.dim() else 1)

    def rounded(self, x: Tensor, scale: Tensor, count: int) -> Tensor:
        """X on the grid of a scale, which `count` values of a picture, or of a weight, have together."""
        levels = FP8_MAX if self.grid is None else float(self.grid[1])
        factor = (count / max(scale.numel(), 1) * levels) ** -0.5
        return quantize(x, scale, self.zero_point(), self.grid, Rule(factor, self.clipping))


class QuantizedWeight(Quantizer):
    """A weight on its grid."""

    unit: Tensor

    def __init__(self, value: Tensor, scaling: Scaling) -> None:
        super().__init__(scaling)
        self.register_buffer("unit", powers_of_two(scaling.scale))
        self.steps = nn.Parameter(value / self.unit)

    def scale(self) -> Tensor:
        """As it is by now."""
        return super().scale() if not self.recomputed else self._recomputed()

    @torch.no_grad()
    def _recomputed(self) -> Tensor:
        """The scale that puts the largest magnitude on the largest level, as `ptq` chooses it."""
        value = (self.steps * self.unit).abs()
        shared = [axis for axis in range(value.dim()) if self.base.dim() == 0 or self.base.shape[axis] == 1]
        amax = value.amax(shared, keepdim=True).reshape(self.base.shape)
        scale = amax / (FP8_MAX if self.grid is None else self.grid[1])
        # A channel of zeros keeps its scale: any represents it.
        return torch.where(scale > torch.finfo(torch.float32).tiny, scale, self.base)

    def forward(self) -> Tensor:  # type: ignore[override]
        """The weight on its grid."""
        return self.rounded(self.steps * self.unit, self.scale(), self.steps.numel())


def powers_of_two(values: Tensor) -> Tensor:
    """The nearest powers of two, by their logarithm: to divide and multiply by them is exact."""
    return torch.exp2(values.double().log2().round()).to(values.dtype)


def into_bins(value: Tensor, stored: Tensor, scale: Tensor) -> Tensor:
    """The float weight, moved where it would not be rounded to what is stored: to its nearest that is.

    Args:
        value: the weight before quantization.
        stored: its integers less the zero point, as floats.
        scale: broadcasts to them.
    """
    there = (value / scale).round() == stored
    distance = (value.double() / scale - stored).clamp(-_EDGE, _EDGE)
    return torch.where(there, value, ((stored + distance) * scale).to(value.dtype))


_EDGE = 0.49
"""Of a step, from an integer: nearly where the next one begins."""


def groups(module: nn.Module, decay: float, factor: float) -> list[dict[str, object]]:
    """The optimizer's groups: what decays, what does not, and scales and zero points with a rate of their own.

    Gradients by steps of a grid are tiny, and Adam divides by their size plus `eps`.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    scales = [p for name, p in named if is_scale(name)]
    others = [p for name, p in named if not is_scale(name)]
    made: Sequence[dict[str, object]] = (
        {"params": [p for p in others if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        {"params": scales, "weight_decay": 0.0, "factor": factor},
    )
    return [{**group, "eps": _EPS} for group in made if group["params"]]


_EPS = 1e-15


def is_scale(name: str) -> bool:
    """Whether a parameter of this path is of a scale or a zero point."""
    return name.rpartition(".")[2] in {"growth", "offset"}
