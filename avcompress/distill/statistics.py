"""What a network knows of the data that it was trained on: the mean and variance of every channel inside it.

Batch normalizations keep both. Exporters fold them into the convolutions, and they are gone; then they are recorded
from images, once: what is kept of those images is two numbers a channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import onnx
import torch
from torch import Tensor, fx, nn

from avcompress.distill.taps import Tapped, tap_names
from avcompress.modes import evaluating
from avcompress.onnx_import.layers import batch_norm
from avcompress.spec import ModelError
from engines.norm_statistics import read_statistics


class Moments(NamedTuple):
    """The mean and the variance of every channel, (C,) each."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Statistics:
    """Moments by the name of a layer, in a network's order.

    Attributes:
        moments: at least one.
        before: whether they are of what these layers take, as a batch normalization's are, or of what they give.
        source: "batch normalization" or "recorded".
    """

    moments: Mapping[str, Moments]
    before: bool
    source: str


def stored_statistics(module: nn.Module) -> Statistics | None:
    """What the batch normalizations of a torch module or an imported graph keep; None where there are none."""
    if isinstance(module, fx.GraphModule):
        found = dict(_of_graph(module))
    else:
        found = {name: m for name, layer in module.named_modules() if (m := _of_layer(layer)) is not None}
    return Statistics(found, before=True, source="batch normalization") if found else None


def _of_graph(module: fx.GraphModule) -> Iterable[tuple[str, Moments]]:
    for name, node in tap_names(module).items():
        if node.op == "call_module" and (kept := _of_layer(module.get_submodule(str(node.target)))) is not None:
            yield name, kept
        if node.target is batch_norm:
            mean, variance = (getattr(module, str(node.args[i].target)) for i in (3, 4))  # type: ignore[union-attr]
            yield name, Moments(mean.detach(), variance.detach())


def _of_layer(layer: nn.Module) -> Moments | None:
    if not isinstance(layer, nn.modules.batchnorm._BatchNorm) or layer.running_mean is None:
        return None
    if layer.running_var is None:
        return None
    return Moments(layer.running_mean.detach(), layer.running_var.detach())


def folded_statistics(network: onnx.ModelProto) -> Statistics | None:
    """What was kept of batch normalizations as they were folded into convolutions here; None where there is none.

    A network that another tool folded has none; one that was prepared for quantization here has those of its own.
    """
    found = {}
    for node in network.graph.node:
        kept = read_statistics(node)
        if kept is not None:
            mean, std = (torch.from_numpy(values.copy()) for values in kept)
            found[str(node.output[0])] = Moments(mean, std.square())
    return Statistics(found, before=False, source="batch normalization") if found else None


def recorded_statistics(module: nn.Module, batches: Iterable[Tensor]) -> Statistics:
    """The moments of what every convolution gives for some images, (N, 3, H, W) each; the network stays as it is.

    Raises ModelError for a network without convolutions, or without images.
    """
    names = _convolutions(module)
    tapped = Tapped(module, names, "teacher")
    sums: dict[str, list[Tensor]] = {}
    for batch in batches:
        with evaluating(module), torch.no_grad():
            for name, value in tapped(batch).taps.items():
                new = _sums(value)
                sums[name] = [a + b for a, b in zip(sums[name], new, strict=True)] if name in sums else new
    if not sums:
        raise ModelError("statistics: expected convolutions and images to record them from, got none; give some images")
    return Statistics({name: _moments(*given) for name, given in sums.items()}, before=False, source="recorded")


def _convolutions(module: nn.Module) -> list[str]:
    if isinstance(module, fx.GraphModule):
        kinds = {name: node.meta.get("onnx_op") for name, node in tap_names(module).items()}
        return [name for name, kind in kinds.items() if kind in {"Conv", "ConvTranspose"}]
    return [name for name, layer in module.named_modules() if isinstance(layer, nn.modules.conv._ConvNd)]


def _sums(x: Tensor) -> list[Tensor]:
    """The number of values a channel, their sums, and those of their squares, in float64."""
    dims = [d for d in range(x.dim()) if d != 1]
    wide = x.double()
    return [torch.tensor(float(x.numel() // x.shape[1])), wide.sum(dims), wide.square().sum(dims)]


def _moments(count: Tensor, total: Tensor, squares: Tensor) -> Moments:
    mean = total / count
    return Moments(mean.float(), (squares / count - mean.square()).clamp(min=0).float())


def moment_distance(x: Tensor, moments: Moments) -> Tensor:
    """How far the moments of x, (N, C, ...), lie from those given, in their own units: ().

    The mean over channels of ((mean - m) / sd)^2 + (sd(x) / sd - 1)^2: no layer's scale counts more than another's.
    Source: DeepInversion, arXiv:1912.08795, where both differences are taken as they are.
    """
    dims = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x, dims, correction=0)
    deviation = moments.variance.clamp(min=1e-8).sqrt()
    off = (mean - moments.mean) / deviation
    spread = (variance + 1e-12).sqrt() / deviation - 1
    return (off.square() + spread.square()).mean()
