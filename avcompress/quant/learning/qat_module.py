"""The trainable module of a quantized ONNX network, and back.

It is what `import_onnx` makes of the network, with its Q/DQ pairs, weights and biases replaced by modules that learn:
one quantizer for all tensors whose scales are tied. Going back fills the same graph with other numbers, so that sites,
ties and names are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812

from avcompress.onnx_import import import_onnx, write_back
from avcompress.onnx_import.layers import padded_conv
from avcompress.onnx_import.quantized import dequantize_linear, quantize_linear, requantize
from avcompress.quant.learning.learned_steps import Grid
from avcompress.quant.learning.quantizers import Bias, QuantizedWeight, Quantizer, Scaled, Scaling, into_bins
from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.patterns import link
from avcompress.quant.placement.ties import ties
from avcompress.recipe_qat import Qat
from avcompress.spec import Artifact, QuantParams, RecipeError
from engines.onnx_graph import folded_names, initializers

_LAYERS = frozenset({F.conv1d, F.conv2d, F.conv3d, F.linear, padded_conv})
"""Functions of (input, weight, bias, ...) whose weight is (outputs, inputs of a group, ...)."""
_LEVELS = 127.0
_FULL, _HALF = (-128, 127), (-64, 64)
_TYPICAL = 32.0
"""Of an input, in steps: what a bias is measured by is a step of a weight times this."""


@dataclass(frozen=True)
class Site:
    """A quantized tensor of the network.

    Attributes:
        tensor: its name in the float network.
        scale, zero_point: names of the constants; the latter "" where there is none.
        quantizer: the path of its module.
    """

    tensor: str
    scale: str
    zero_point: str
    quantizer: str


def qat_module(artifact: Artifact, settings: Qat) -> fx.GraphModule:
    """The network as it is trained; it computes what the artifact's does.

    `meta["sites"]` are its quantized tensors, `meta["constants"]` by the name of every parameter's constant
    the path of its module, and that of the weight which a bias is given. Weights begin as what they were before they
    were rounded to what is stored.
    Raises RecipeError when a pattern of `scales` names no quantized tensor, or for lsq_plus without zero points.
    """
    builder = _Builder(artifact, settings)
    for node in list(builder.graph.nodes):
        builder.visit(node)
    return builder.finish()


class _Builder:
    """The state of one construction."""

    def __init__(self, artifact: Artifact, settings: Qat) -> None:
        self.module = import_onnx(artifact.model)
        self.graph = self.module.graph
        self.settings = settings
        self.constants: dict[str, tuple[str, ...]] = {}
        self.sites: list[Site] = []
        self.quantizers, self.weights, self.plain = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for name in ("quantizers", "weights", "plain"):
            self.module.add_module(name, getattr(self, name))
        self.floats = _float_weights(artifact)
        self.leaders = tied(artifact)
        if settings.method == "lsq_plus" and not any(any(params.zero_point) for params in artifact.qparams.values()):
            raise RecipeError(
                "qat.method: expected activations with zero points for lsq_plus, got none; set activations: asymmetric "
                "in `ptq`, or method: lsq"
            )
        self.matched: set[str] = set()

    def visit(self, node: fx.Node) -> None:
        """Replace a node by a call of a module, where it quantizes or is trained."""
        if node.op == "call_function" and node.target is quantize_linear:
            self._pair(node)
        elif node.op == "call_function" and node.target is requantize and not node.args[4]:
            self._weight(node)

    def _value(self, argument: Any) -> Tensor | None:
        """Of a constant."""
        constant = isinstance(argument, fx.Node) and argument.op == "get_attr"
        return cast(Tensor, getattr(self.module, str(argument.target))).detach() if constant else None

    def _pair(self, node: fx.Node) -> None:
        """A QuantizeLinear and the DequantizeLinears after it."""
        source, scale, zero, axis, grid = cast("tuple[Any, ...]", node.args)
        value = self._value(scale)
        users = list(node.users)
        alike = all(user.target is dequantize_linear and user.args[1:4] == node.args[1:4] for user in users)
        if value is None or not alike:
            return
        tensor = _tensor(source)
        leader = self.leaders.get(tensor, tensor)
        shape = _along(axis, len(source.meta["shape"]), value)
        path = _key(leader)
        if path not in self.quantizers:
            learns, method = self._may_learn(leader) and self.settings.learns_activations, self.settings.method
            moves = learns and method == "lsq_plus"
            known = Scaling(value.reshape(shape), self._shift(zero, shape, moves), grid, learns)
            self.quantizers[path] = Quantizer(known._replace(clipping=method == "pact", offset=moves))
        with self.graph.inserting_before(node):
            made = self.graph.call_module(f"quantizers.{path}", (source,))
        made.meta.update(onnx=("", source.meta["onnx"][1]), shape=source.meta["shape"])
        self.sites.append(_site(tensor, scale, zero, f"quantizers.{path}"))
        for user in users:
            user.replace_all_uses_with(made)
            self.graph.erase_node(user)
        self.graph.erase_node(node)

    def _weight(self, node: fx.Node) -> None:
        """A weight that is stored as integers, and its DequantizeLinear."""
        stored, scale, zero, axis, _, grid = cast("tuple[Any, ...]", node.args)
        value, step = self._value(stored), self._value(scale)
        if value is None or step is None or not isinstance(getattr(self.module, str(stored.target)), nn.Parameter):
            return
        shape = _along(axis, value.dim(), step)
        tensor, before = self.floats.get(_tensor(node), (_tensor(stored), value))
        step, shift = step.reshape(shape), self._shift(zero, shape)
        integers = (value / step).round()
        start = before if grid is None else into_bins(before, integers, step)
        may = self._may_learn(tensor)
        recomputed = may and self.settings.weight_scales == "recomputed"
        scaling = Scaling(
            step, shift, _kept(grid, integers), may and self.settings.learns_weights, recomputed=recomputed
        )
        path = _key(tensor)
        self.weights[path] = QuantizedWeight(start, scaling)
        with self.graph.inserting_before(node):
            made = self.graph.call_module(f"weights.{path}")
        made.meta.update(node.meta)
        self.constants[_tensor(stored)] = (f"weights.{path}",)
        self.sites.append(_site(tensor, scale, zero, f"weights.{path}"))
        node.replace_all_uses_with(made)
        self.graph.erase_node(node)

    def _shift(self, zero: Any, shape: tuple[int, ...], moves: bool = False) -> Tensor | None:
        """The zero points; None where they are all 0 and stay so."""
        value = self._value(zero)
        if value is None or not (moves or bool(value.float().any())):
            return None
        return value.float().reshape(shape)

    def _may_learn(self, tensor: str) -> bool:
        """Whether a pattern names it, or one that is tied to it."""
        group = {tensor, *(name for name, leader in self.leaders.items() if leader == tensor)}
        hits = [p for p in self.settings.scales if any(fnmatchcase(name, p) for name in group)]
        self.matched.update(hits)
        return bool(hits)

    def finish(self) -> fx.GraphModule:
        """Replace the parameters that are left, and check the graph."""
        self._refuse_unmatched()
        for node in list(self.graph.nodes):
            if node.op == "get_attr" and isinstance(getattr(self.module, str(node.target)), nn.Parameter):
                self._parameter(node)
        for node in list(self.graph.nodes):
            if node.op == "get_attr" and not node.users:
                self.graph.erase_node(node)
        self.graph.lint()
        self.module.recompile()
        used = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        for attribute in {*self.module.meta["parameters"].values(), *self.module.meta["buffers"].values()} - used:
            delattr(self.module, attribute)
        self.module.meta.update(sites=tuple(self.sites), constants=self.constants)
        return self.module

    def _parameter(self, node: fx.Node) -> None:
        value = self._value(node)
        if value is None or not node.users:
            return
        path, unit = _key(_tensor(node)), self._unit(node, value)
        beside = self._weight_beside(node)
        weight = self._module(beside)
        with self.graph.inserting_before(next(iter(node.users))):
            if beside is not None and isinstance(weight, QuantizedWeight):
                self.plain[path] = Bias(value, unit, weight())
                made = self.graph.call_module(f"plain.{path}", (beside,))
                self.constants[_tensor(node)] = (f"plain.{path}", str(beside.target))
            else:
                self.plain[path] = Scaled(value, unit)
                made = self.graph.call_module(f"plain.{path}")
                self.constants[_tensor(node)] = (f"plain.{path}",)
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        self.graph.erase_node(node)

    def _weight_beside(self, node: fx.Node) -> fx.Node | None:
        """The quantized weight of the one layer that adds this as its bias."""
        user = next(iter(node.users))
        layer = len(node.users) == 1 and user.target in _LAYERS and user.args[2] is node
        weight = user.args[1] if layer else None
        return weight if isinstance(weight, fx.Node) else None

    def _unit(self, node: fx.Node, value: Tensor) -> Tensor:
        """What an INT8 step of it would be: of a bias what one step of its layer's weight may add to the output."""
        user = next(iter(node.users))
        weight = user.args[1] if len(user.args) > 2 and user.args[2] is node else None
        module = self._module(weight)
        if isinstance(module, QuantizedWeight) and module.base.numel() in (1, value.numel()):
            source = self._module(user.args[0])
            step = source.base if isinstance(source, Quantizer) and source.base.numel() == 1 else None
            typical = 1.0 if step is None else _TYPICAL * float(step)
            return (module.base * typical).reshape(value.shape if module.base.numel() > 1 else ())
        axes = tuple(range(1, value.dim()))
        amax = value.abs().amax(axes, keepdim=True) if axes else value.abs().amax()
        return torch.where(amax > 0, amax, torch.ones_like(amax)) / _LEVELS

    def _module(self, argument: Any) -> nn.Module | None:
        if not isinstance(argument, fx.Node) or argument.op != "call_module":
            return None
        kind, _, path = str(argument.target).partition(".")
        return cast(nn.Module, getattr(self, kind)[path])

    def _refuse_unmatched(self) -> None:
        unmatched = [pattern for pattern in self.settings.scales if pattern not in self.matched and pattern != "*"]
        if unmatched:
            raise RecipeError(
                f"qat.scales: expected names or patterns of quantized tensors, got {unmatched[0]!r}, which fits none; "
                "see `avcompress inspect`, or leave it out"
            )


def _tensor(node: fx.Node) -> str:
    """The ONNX tensor that an fx node stands for."""
    return str(node.meta["onnx"][1][0])


def _site(tensor: str, scale: fx.Node, zero: Any, quantizer: str) -> Site:
    return Site(tensor, _tensor(scale), _tensor(zero) if isinstance(zero, fx.Node) else "", quantizer)


def _along(axis: int | None, rank: int, scale: Tensor) -> tuple[int, ...]:
    """The shape in which scales broadcast."""
    if axis is None or scale.dim() != 1:
        return ()
    return tuple(-1 if i == axis else 1 for i in range(rank))


def _kept(grid: Grid, integers: Tensor) -> Grid:
    """A weight that uses half of INT8's range stays there: CPUs without VNNI compute it in integers for that."""
    return _HALF if grid == _FULL and bool((integers.abs() <= _HALF[1]).all()) else grid


def _key(name: str) -> str:
    """A name that a module may have; different ones stay different."""
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name)


def tied(artifact: Artifact) -> dict[str, str]:
    """Of every activation that shares its scale with others, the first of them.

    Shared: values pass between them unchanged, and `ptq` gave them one scale.
    """
    quantized = [node.input[0] for node in artifact.model.graph.node if node.op_type == "QuantizeLinear"]
    network = artifact.model if artifact.reference is None else artifact.reference
    leaders: dict[str, str] = {}
    for group in ties(list(dict.fromkeys(quantized)), link(graph_view(network))):
        first: dict[QuantParams, str] = {}
        for tensor in group:
            if tensor in artifact.qparams:
                leaders[tensor] = first.setdefault(artifact.qparams[tensor], tensor)
    return leaders


def _float_weights(artifact: Artifact) -> dict[str, tuple[str, Tensor]]:
    """By the dequantized tensor of every weight: its name in the float network, and its value there."""
    if artifact.reference is None:
        return {}
    constants = initializers(artifact.reference)
    originals = {node.name: node for node in artifact.reference.graph.node}
    outputs = {node.output[0] for node in artifact.model.graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, tuple[str, Tensor]] = {}
    for node in artifact.model.graph.node:
        original = originals.get(node.name)
        for index, name in enumerate(node.input):
            if name not in outputs or original is None or index >= len(original.input):
                continue
            stored = constants.get(original.input[index])
            if stored is not None:
                value = torch.from_numpy(numpy_helper.to_array(stored).astype(np.float32))
                found[name] = (original.input[index], value)
    return found


def weight_paths(module: fx.GraphModule, weights: Iterable[str]) -> tuple[str, ...]:
    """The parameters of a `qat_module` that hold some weights of the float network, by the names of their constants."""
    sites: tuple[Site, ...] = module.meta["sites"]
    plain: Mapping[str, tuple[str, ...]] = module.meta["constants"]
    paths = {**{name: path for name, (path, *_) in plain.items()}, **{site.tensor: site.quantizer for site in sites}}
    return tuple(f"{paths[name]}.steps" for weight in weights for name in folded_names(weight, paths))


# --- before it is trained


@torch.no_grad()
def centre_(module: fx.GraphModule, inputs: Tensor) -> None:
    """Let every bias take in what a change of its weight gives on average of these inputs, (N, C, H, W)."""
    means = _Means(module)
    for part in torch.split(inputs, 1) if module.meta.get("one_image") else [inputs]:
        means.run(part)
    for bias, found in means.found.items():
        bias.set_mean_(torch.stack(found).mean(0))


class _Means(fx.Interpreter):
    """Finds, for each bias and run, the mean of every channel that its layer reads."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[Bias, list[Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function" and n.target in _LAYERS and isinstance(n.args[2], fx.Node):
            target = n.args[2]
            part = self.fetch_attr(str(target.target)) if target.op == "call_module" else None
            if isinstance(part, Bias):
                data = self.env[cast(fx.Node, n.args[0])]
                axis = data.dim() - 1 if n.target is F.linear else 1
                mean = data.mean([i for i in range(data.dim()) if i != axis])
                self.found.setdefault(part, []).append(mean)
        return super().run_node(n)


# --- and back


def trained_artifact(artifact: Artifact, module: fx.GraphModule) -> Artifact:
    """The artifact with what a trained `qat_module` of it has learned; of an untrained one, with the same bytes."""
    with torch.no_grad():
        values = dict(_constants(module))
        scales, qparams = _scales(module, artifact.qparams)
    model = _filled(artifact.model, {**values, **scales})
    return replace(artifact, model=model, qparams=qparams)


def _constants(module: fx.GraphModule) -> Iterable[tuple[str, Tensor]]:
    """What every parameter is by now, by the name of its constant."""
    places: Mapping[str, tuple[str, ...]] = module.meta["constants"]
    for name, (path, *beside) in places.items():
        yield name, module.get_submodule(path)(*(module.get_submodule(other)() for other in beside))


def _scales(
    module: fx.GraphModule, before: Mapping[str, QuantParams]
) -> tuple[dict[str, Tensor], dict[str, QuantParams]]:
    """Scales and zero points by the name of their constant, and as parameters by that of the tensor."""
    values: dict[str, Tensor] = {}
    qparams = dict(before)
    sites: tuple[Site, ...] = module.meta["sites"]
    for site in sites:
        quantizer = cast(Quantizer, module.get_submodule(site.quantizer))
        scale, zero = quantizer.scale(), quantizer.zero_point()
        values[site.scale] = scale
        if zero is not None and site.zero_point:
            values[site.zero_point] = zero
        known = qparams.get(site.tensor)
        if known is not None:
            zeros = known.zero_point if zero is None else tuple(int(v) for v in zero.reshape(-1).tolist())
            qparams[site.tensor] = replace(known, scale=tuple(scale.reshape(-1).tolist()), zero_point=zeros)
    return values, qparams


def _filled(model: onnx.ModelProto, values: Mapping[str, Tensor]) -> onnx.ModelProto:
    """The network with other constants."""
    plain = import_onnx(model)
    places: dict[str, str] = {**plain.meta["parameters"], **plain.meta["buffers"]}
    held = plain.state_dict()
    for name, value in values.items():
        there = held[places[name]]
        there.copy_(value.reshape(there.shape))
    return write_back(plain, model)
