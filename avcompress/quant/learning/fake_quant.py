"""Fake quantization: values rounded onto a format's grid and back, with a gradient, and where it enters an fx graph.

The arithmetic is that of ONNX QuantizeLinear and DequantizeLinear in float32, so that a fake-quantized module and its
exported Q/DQ network agree.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812

from avcompress.onnx_import.quantized import cast_fp8
from avcompress.quant.placement.fx_sketch import op_name
from avcompress.quant.placement.view import Edge, Site
from avcompress.spec import ModelError, QDtype, QuantParams

BOUNDS: Mapping[QDtype, tuple[int, int]] = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7)}
_FUNCTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
    nn.Linear: F.linear,
}
_OPERANDS = (("input",), ("weight", "other", "mat2"), ("bias",))


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """Round x onto the integer grid and back; the gradient passes straight through in range.

    Args:
        x: any shape, float32.
        scale: > 0, broadcasts to x: () per tensor, (1, C, 1, 1) per channel.
        zero_point: integer-valued, same shape as scale.
        qmin: the smallest integer of the format.
        qmax: the largest.

    Source: ONNX QuantizeLinear; straight-through estimator, arXiv:1308.3432.
    """
    steps = x / scale
    steps = steps + (steps.round() - steps).detach()
    # Round first, then shift: rounding is half-to-even, so the order decides ties.
    return ((steps + zero_point).clamp(qmin, qmax) - zero_point) * scale


def fake_quantize_fp8(x: Tensor, scale: Tensor) -> Tensor:
    """Round x / scale to FP8 E4M3 and back, saturated at 448; the gradient passes straight through in range.

    Args:
        x: any shape, float32.
        scale: > 0, broadcasts to x.

    Source: FP8 formats for deep learning, arXiv:2209.05433; ONNX QuantizeLinear, opset 19.
    """
    return cast_fp8(x / scale) * scale


class FakeQuantize(nn.Module):
    """Fake quantization with the given parameters; `scale` and `zero_point` are buffers, of the shape of the scales.

    () per tensor, (C,) per channel along `axis`, blocks along `axis` of a 2-D weight otherwise.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, params: QuantParams, shape: tuple[int, ...] = ()) -> None:
        """`shape` is the weight's, needed where its scales come in blocks."""
        super().__init__()
        self.axis, self.dtype, self.block_size = params.axis, params.dtype, params.block_size
        kept = _scale_shape(params, shape)
        self.register_buffer("scale", torch.tensor(params.scale, dtype=torch.float32).reshape(kept))
        self.register_buffer("zero_point", torch.tensor(params.zero_point, dtype=torch.float32).reshape(kept))

    def forward(self, x: Tensor) -> Tensor:
        """The values of x on the grid, of the same shape."""
        scale, zero_point = self._along(self.scale, x), self._along(self.zero_point, x)
        if self.dtype == "float8e4m3fn":
            return fake_quantize_fp8(x, scale)
        return fake_quantize(x, scale, zero_point, *BOUNDS[self.dtype])

    def _along(self, values: Tensor, x: Tensor) -> Tensor:
        if self.axis is None:
            return values
        if self.block_size is not None:
            return values.repeat_interleave(self.block_size, self.axis).narrow(self.axis, 0, x.shape[self.axis])
        shape = [1] * x.dim()
        shape[self.axis] = -1
        return values.reshape(shape)

    def extra_repr(self) -> str:
        """What is printed of it."""
        return f"{self.dtype}, axis={self.axis}, scales={self.scale.numel()}"


def _scale_shape(params: QuantParams, shape: tuple[int, ...]) -> tuple[int, ...]:
    if params.axis is None:
        return ()
    if params.block_size is None:
        return (-1,)
    return tuple(-(-n // params.block_size) if axis == params.axis else n for axis, n in enumerate(shape))


# --- into a graph


def insert_fake_quant(
    module: fx.GraphModule, sites: Iterable[Site], qparams: Mapping[str, QuantParams]
) -> fx.GraphModule:
    """Fake-quantize the inputs that `sites` name; every other use keeps the float tensor. The torch `insert_qdq`.

    A tensor has one FakeQuantize for all its edges, a submodule `fake_quant.<its name>`. A layer whose weight is
    quantized becomes a function call; its parameters keep their paths, so that a state dict still loads.

    Args:
        module: traced by `trace` or made by `import_onnx`, with batch norms folded; it stays as it is.
        sites: of `place(graph_view(module, ...))`.
        qparams: by name of each site's tensor.
    """
    new = copy.deepcopy(module)
    holder = nn.Module()
    new.add_module("fake_quant", holder)
    operators = _operators(new)
    for index, site in enumerate(sites):
        attribute = f"{index}_{_identifier(site.tensor)}"
        made: dict[fx.Node, fx.Node] = {}
        for edge in site.edges:
            node = operators[edge[0]]
            _open_(node, new)
            source = _source(node, edge)
            if not hasattr(holder, attribute):
                holder.add_module(attribute, FakeQuantize(qparams[site.tensor], _weight_shape(new, source)))
            if source not in made:
                made[source] = _fake_quantized(new, source, f"fake_quant.{attribute}")
            _replace_operand_(node, edge[1], made[source])
    new.graph.lint()
    new.recompile()
    return new


def _operators(module: fx.GraphModule) -> dict[str, fx.Node]:
    """The node of every operator; of an imported one the call, not what takes its outputs apart."""
    found: dict[str, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op in {"call_function", "call_method", "call_module"}:
            found.setdefault(op_name(node), node)
    return found


def _identifier(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)


def _weight_shape(module: fx.GraphModule, source: fx.Node) -> tuple[int, ...]:
    if source.op != "get_attr":
        return ()
    owner, _, name = str(source.target).rpartition(".")
    return tuple(getattr(module.get_submodule(owner), name).shape)


def _fake_quantized(module: fx.GraphModule, source: fx.Node, target: str) -> fx.Node:
    with module.graph.inserting_after(_last_input(module, source)):
        made = module.graph.call_module(target, (source,))
    if "onnx" in source.meta:
        made.meta["onnx"] = ("", source.meta["onnx"][1])
    return made


def _last_input(module: fx.GraphModule, source: fx.Node) -> fx.Node:
    """Where a new node may stand: after its source, and after all inputs, which fx wants first."""
    if source.op != "placeholder":
        return source
    inputs: list[fx.Node] = [node for node in module.graph.nodes if node.op == "placeholder"]
    return inputs[-1]


def _source(node: fx.Node, edge: Edge) -> fx.Node:
    """The fx node at an edge."""
    index = edge[1]
    source = node.args[index] if index < len(node.args) else node.kwargs[_keyword(node, index)]
    if not isinstance(source, fx.Node):
        raise ModelError(f"{edge[0]}: expected a tensor as its input {index}, got {source!r}; trace the module again")
    return source


def _keyword(node: fx.Node, index: int) -> str:
    return next(name for name in _OPERANDS[index] if name in node.kwargs)


def _replace_operand_(node: fx.Node, index: int, new: fx.Node) -> None:
    if index < len(node.args):
        node.update_arg(index, new)
    else:
        node.update_kwarg(_keyword(node, index), new)


def _open_(node: fx.Node, module: fx.GraphModule) -> None:
    """Turn a layer into a call of its function on its parameters; any other node stays."""
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    function = next((function for kind, function in _FUNCTIONS.items() if isinstance(layer, kind)), None)
    if layer is None or function is None:
        return
    with module.graph.inserting_before(node):
        x = _padded(node, layer, module)
        weight = module.graph.get_attr(f"{node.target}.weight")
        bias = None if layer.bias is None else module.graph.get_attr(f"{node.target}.bias")
    # In place, so that it keeps its name: sites and quantization parameters go by it.
    node.op, node.target, node.args, node.kwargs = "call_function", function, (x, weight, bias, *_settings(layer)), {}


def _padded(node: fx.Node, layer: nn.Module, module: fx.GraphModule) -> Any:
    """The input of a layer, padded where that is not by zeros."""
    mode = getattr(layer, "padding_mode", "zeros")
    if mode == "zeros":
        return node.args[0]
    pads = list(layer._reversed_padding_repeated_twice)  # type: ignore[arg-type]
    return module.graph.call_function(F.pad, (node.args[0], pads), {"mode": mode})


def _settings(layer: nn.Module) -> tuple[Any, ...]:
    """What a layer's function takes after its parameters."""
    match layer:
        case nn.Linear():
            return ()
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            return (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            padding = layer.padding if layer.padding_mode == "zeros" else (0,) * len(layer.kernel_size)
            return (layer.stride, padding, layer.dilation, layer.groups)
        case _:
            raise TypeError(f"expected a layer with weights, got {type(layer).__name__}")


# --- before it


def fold_batch_norms(module: fx.GraphModule) -> fx.GraphModule:
    """Fold each batch normalization into the convolution before it where nothing else reads that convolution.

    The torch twin of `engines.onnx_graph.fold_batch_norms`; the module itself stays as it is. A folded convolution
    keeps its path; its weight and bias take over the scale and shift of the stored statistics.
    """
    new = copy.deepcopy(module)
    uses: dict[str, int] = {}
    for node in new.graph.nodes:
        if node.op == "call_module":
            uses[str(node.target)] = uses.get(str(node.target), 0) + 1
    for node in list(new.graph.nodes):
        conv = _foldable(node, new, uses)
        if conv is not None:
            _fold_(new.get_submodule(str(conv.target)), new.get_submodule(str(node.target)))
            node.replace_all_uses_with(conv)
            new.graph.erase_node(node)
    new.graph.lint()
    new.recompile()
    return new


def _foldable(node: fx.Node, module: fx.GraphModule, uses: Mapping[str, int]) -> fx.Node | None:
    """The convolution that a normalization folds into."""
    before = node.args[0] if node.op == "call_module" and node.args else None
    if not isinstance(before, fx.Node) or before.op != "call_module":
        return None
    norm, conv = (module.get_submodule(str(n.target)) for n in (node, before))
    fixed = isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None
    if not fixed or not isinstance(conv, nn.modules.conv._ConvNd):
        return None
    return before if list(before.users) == [node] and uses[str(before.target)] == 1 else None


def _fold_(conv: Any, norm: Any) -> None:
    """Source: gamma * (w x + b - mean) / sqrt(var + eps) + beta, in float64."""
    mean, var = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    factor = gamma / torch.sqrt(var + norm.eps)
    weight, bias = conv.weight.detach().double(), 0.0 if conv.bias is None else conv.bias.detach().double()
    if isinstance(conv, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        # (C, M / group, kernel): the group of an input channel decides which outputs it feeds.
        by_group = weight.reshape(conv.groups, -1, *weight.shape[1:])
        per_group = factor.reshape(conv.groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (by_group * per_group).reshape(weight.shape)
    else:
        scaled = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
    conv.weight = nn.Parameter(scaled.float())
    conv.bias = nn.Parameter(((bias - mean) * factor + beta).float())
