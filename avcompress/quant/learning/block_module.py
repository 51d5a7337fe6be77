"""A block of a quantized network in torch, with weights that learn their rounding and activations their scale.

Sources: rounding: arXiv:2004.10568; scales: Esser et al.: Learned Step Size Quantization, arXiv:1902.08153; activations
that stay float at random: Wei et al.: QDrop, arXiv:2203.05740.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from avcompress.onnx_import import import_onnx
from avcompress.quant.int8_layers import Grid
from avcompress.quant.learning import rounding
from avcompress.spec import Array


class Weight(NamedTuple):
    """A weight whose rounding is learned.

    Attributes:
        grid: of its integers.
        steps: the float weight, in steps of the grid.
        integers: as they are by now.
    """

    grid: Grid
    steps: Array
    integers: Array


class BlockModule(fx.Interpreter):
    """Runs a block. Which values its weights and scales have, and how much stays float, changes while it is learned.

    Attributes:
        roundings: by the name of a weight's integers; those of every weight that is learned.
        growth: by the name of a scale, the logarithm of its change; of every scale that is learned.
        soft: weights between two integers rather than on one.
        drop: the share of activations that stay float.
    """

    def __init__(self, model: onnx.ModelProto, weights: Mapping[str, Weight], scales: Iterable[str]) -> None:
        """Prepare to learn these weights, by the name of their integers, and these activations' scales."""
        super().__init__(import_onnx(model).requires_grad_(False), garbage_collect_values=False)
        self.roundings = {name: _start(weight) for name, weight in weights.items()}
        self.grids = {name: weight.grid for name, weight in weights.items()}
        self.growth = {name: torch.zeros((), requires_grad=True) for name in scales}
        self.soft = False
        self.drop = 0.0
        self.random = torch.Generator()

    def variables(self) -> list[Tensor]:
        """The rounding variables."""
        return [each.v for each in self.roundings.values()]

    def shares(self) -> list[Tensor]:
        """Of every weight, how far up it is."""
        return [rounding.rectified_sigmoid(v) for v in self.variables()]

    def scale(self, name: str, value: Tensor) -> Tensor:
        """A scale as it is by now."""
        return value * self.growth[name].exp() if name in self.growth else value

    def integers(self) -> dict[str, NDArray[np.float32]]:
        """What each weight's variables stand for, zero point included."""
        return {
            name: (each.hard() + _like(self.grids[name].zero_point, self.grids[name], each.v)).detach().numpy()
            for name, each in self.roundings.items()
        }

    def run_node(self, n: fx.Node) -> Any:
        """Evaluate one node: weights and activations on their grids as they are by now, the rest as it is."""
        if n.meta.get("onnx_op") == "QuantizeLinear" and n.args[4] is not None:
            return None  # its DequantizeLinear does both
        if n.meta.get("onnx_op") != "DequantizeLinear":
            return super().run_node(n)
        origin = n.args[0]
        if not isinstance(origin, fx.Node):
            return super().run_node(n)
        name = _tensor(origin)
        if name in self.roundings:
            each = self.roundings[name]
            integers = each.integers(rounding.rectified_sigmoid(each.v)) if self.soft else each.hard()
            return integers * _like(self.grids[name].scale, self.grids[name], each.v)
        if origin.meta.get("onnx_op") == "QuantizeLinear" and origin.args[4] is not None:
            return self._activation(origin)
        return super().run_node(n)

    def _activation(self, quantize: fx.Node) -> Tensor:
        arguments: list[Any] = [self.env[a] if isinstance(a, fx.Node) else a for a in quantize.args]
        data, scale, zero_point, axis, limits = arguments
        scale = self.scale(_tensor(quantize.args[1]), scale)
        shape = [-1 if i == axis else 1 for i in range(data.dim())] if scale.dim() else []
        scale = scale.reshape(shape)
        shift = zero_point.reshape(shape) if zero_point is not None else 0
        steps = data / scale
        steps = steps + (steps.round() - steps).detach()
        result: Tensor = ((steps + shift).clamp(*limits) - shift) * scale
        if self.drop:
            stays = torch.rand(result.shape, generator=self.random) < self.drop
            result = torch.where(stays, data, result)
        return result


def _tensor(node: Any) -> str:
    """The ONNX tensor that an fx node stands for."""
    return str(node.meta["onnx"][1][0])


def _start(weight: Weight) -> rounding.Rounding:
    steps, integers = (torch.from_numpy(np.array(values, np.float32)) for values in weight[1:])
    shift = _like(weight.grid.zero_point, weight.grid, steps)
    started = rounding.start(steps, weight.grid.qmin - shift, weight.grid.qmax - shift, integers - shift)
    return started._replace(v=started.v.requires_grad_(True))


def _like(values: NDArray[np.float32], grid: Grid, tensor: Tensor) -> Tensor:
    """Scales or zero points that broadcast to a tensor."""
    return torch.from_numpy(np.array(grid.broadcast(values, tensor.dim())))
