"""What is left of each layer, fitted to what the whole layer gave.

A layer whose inputs lost channels can make up for much of them with those that stay, for channels say alike things. In
the order of the graph, so that each layer makes up for what those before it could not, the weights and the bias that
bring its output nearest to that of the network as it was are a problem of least squares, on a few output positions of
a few images, with the sliced weights as what no evidence speaks against.

Sources: He et al.: Channel Pruning for Accelerating Very Deep Neural Networks, arXiv:1707.06168, equation 5; from the
inputs as the smaller network has them: section 3.2.2, "multi-branch", here for every layer.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from avcompress.onnx_import import import_onnx, write_back
from avcompress.patches import Conv, Geometry, geometry
from avcompress.prune.answers import answers
from avcompress.prune.groups import Coupling, Removed
from avcompress.prune.weights import Weight, layers_of, ready, weights_of
from avcompress.spec import Array, ModelError
from engines.onnx_graph import initializers, shapes, use_counts

_ROWS = 16
"""Output positions for each input value of a layer: equations for each unknown."""
_FEWEST, _MOST = 2048, 16384
_WIDEST = 2304
"""Inputs of an output, as 256 channels under 3x3; above, the bias alone is fitted. The work grows with their cube."""
_HELD_OUT = 4
"""Every fourth image tells which ridge is best, and whether any fit is better than none."""
_RIDGES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
"""In parts of the inputs' mean variance, the strongest first."""
_WORTH = 0.98
"""A weaker ridge, whose weights are larger, is for what loses so much less."""
_EXACT = 1e-9
"""Of an output's variance: what rounding makes of a layer that lost nothing."""
_TOGETHER = 8
_BYTES = 256 << 20
"""Of the largest tensor for all images together: they pass the network abreast."""


class Chunk(NamedTuple):
    """Images that pass together; all of them learned from, or all held out."""

    images: Tensor
    held_out: bool


class _Seen(NamedTuple):
    """What a layer gave at some output positions of a chunk."""

    positions: NDArray[np.int64]
    outputs: Array
    """(n, M)."""


@dataclass(frozen=True, eq=False)
class Example:
    """A network before pruning, and what it makes of some images: what a smaller one is fitted to.

    Attributes:
        chunks: the images.
        seen: by layer, for each chunk.
    """

    chunks: Sequence[Chunk]
    seen: Mapping[str, Sequence[_Seen]]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A smaller network with fitted weights.

    Attributes:
        lost: by layer that has other weights now, the part of its output's variance that it lost before, and after, on
            images that it was not fitted to.
    """

    network: onnx.ModelProto
    lost: Mapping[str, tuple[float, float]]


def example(network: onnx.ModelProto, images: Iterable[Tensor]) -> Example:
    """Run a network on images, of which as many are used as memory allows.

    Args:
        network: before pruning.
        images: batches (N, C, H, W) as the network takes them.

    Raises ModelError when there are fewer than four images, or the network does not take them.
    """
    network = ready(network)
    module = import_onnx(network)
    chunks = _chunks(module, images)
    watched = _Watched(module, _layers(network, module), sum(len(chunk.images) for chunk in chunks))
    with torch.no_grad():
        for chunk in chunks:
            answers(watched.run, chunk.images, "fit")
    return Example(chunks, watched.found)


def fitted(
    beside: Example,
    small: onnx.ModelProto,
    gone: Mapping[str, Sequence[int]],
    leave: Collection[str] = (),
    factors: Mapping[str, float] = MappingProxyType({}),
) -> Fitted:
    """Fit a pruned network layer by layer. Transposed convolutions and shared weights are left as they are.

    Args:
        beside: what the network gave before.
        small: what `without` made of it.
        gone: by layer, which of its outputs were removed; see `outputs_gone`.
        leave: constants to leave as they are.
        factors: by layer, what its outputs are times those that the network gave; of others 1.
    """
    small = ready(small)
    module = import_onnx(small)
    beside = _scaled(beside, factors)
    found = {
        name: layer
        for name, layer in _layers(small, module).items()
        if layer.weight not in leave and name in beside.seen
    }
    with torch.no_grad():
        lost = _fit_(module, found, beside, gone)
    return Fitted(write_back(module, small), lost)


def _scaled(beside: Example, factors: Mapping[str, float]) -> Example:
    """The same with the outputs of some layers times a factor."""
    scaled = {
        name: [seen._replace(outputs=factor * seen.outputs) for seen in beside.seen[name]]
        for name, factor in factors.items()
        if name in beside.seen
    }
    return replace(beside, seen={**beside.seen, **scaled})


def outputs_gone(network: onnx.ModelProto, coupling: Coupling, removed: Removed) -> dict[str, tuple[int, ...]]:
    """By layer, which of its outputs a removal takes away."""
    positions: dict[tuple[str, int], set[int]] = {}
    for group in coupling.groups:
        for index in removed.get(group.name, ()):
            for place in group.channels[index].places:
                positions.setdefault((place.tensor, place.axis), set()).update(place.positions)
    weights = weights_of(ready(network))
    return {each.layer: tuple(sorted(positions.get((each.tensor, each.outputs), ()))) for each in weights}


class _Layer(NamedTuple):
    """A layer that can be fitted: how it becomes a product, and the constants that it is computed from."""

    name: str
    geometry: Geometry
    weight: str
    bias: str | None
    width: int
    """Input values of an output."""


def _layers(network: onnx.ModelProto, module: fx.GraphModule) -> dict[str, _Layer]:
    """By name; without those whose constants others read, too, or that are no products of patches."""
    constants, known, uses = initializers(network), shapes(network), use_counts(network)
    own = {name for name in module.meta["parameters"] if uses[name] == 1}
    nodes = {node.name: node for node in network.graph.node}
    found = {}
    for weight, _ in layers_of(module):
        node = nodes[weight.layer]
        how = _geometry(node, weight, known, constants) if weight.tensor in own else None
        if how is not None:
            bias = node.input[2] if len(node.input) > 2 and node.input[2] in own else None
            dims = tuple(constants[weight.tensor].dims)
            width = int(np.prod(dims[1:])) if weight.kind == "Conv" else dims[weight.inputs]
            found[node.name] = _Layer(node.name, how, weight.tensor, bias, width)
    return found


def _geometry(
    node: onnx.NodeProto,
    weight: Weight,
    known: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, onnx.TensorProto],
) -> Geometry | None:
    if weight.operand != 1 or (node.op_type == "Gemm" and not _plain(node)):
        return None
    return geometry(node, known.get(node.input[0], ()), tuple(constants[weight.tensor].dims))


def _plain(gemm: onnx.NodeProto) -> bool:
    """Whether a Gemm is a product and a sum, without factors."""
    return all(item.f == 1.0 for item in gemm.attribute if item.name in {"alpha", "beta"})


def _chunks(module: fx.GraphModule, images: Iterable[Tensor]) -> list[Chunk]:
    """As many images as fit, several at a time unless the network takes but one."""
    largest = max(int(np.prod(node.meta["shape"])) for node in module.graph.nodes if node.meta.get("shape"))
    most = max(_HELD_OUT, _BYTES // (4 * largest))
    taken: list[Tensor] = []
    for batch in images:
        taken += torch.split(batch[: most - len(taken)], 1)
        if len(taken) == most:
            break
    if len(taken) < _HELD_OUT:
        raise ModelError(
            f"prune: expected {_HELD_OUT} images at least to fit layers to, got {len(taken)}; give more, or set fit: "
            "false"
        )
    size = 1 if module.meta.get("one_image") else _TOGETHER
    parts = [[image for i, image in enumerate(taken) if (i % _HELD_OUT == 1) is held] for held in (False, True)]
    return [
        Chunk(torch.cat(part[i : i + size]), held)
        for held, part in zip((False, True), parts, strict=True)
        for i in range(0, len(part), size)
    ]


class _Watched(fx.Interpreter):
    """Runs a network, and keeps some of what its layers give."""

    def __init__(self, module: fx.GraphModule, layers: Mapping[str, _Layer], images: int) -> None:
        super().__init__(module)
        self.layers = {node: layers[weight.layer] for weight, node in layers_of(module) if weight.layer in layers}
        self.images = images
        self.found: dict[str, list[_Seen]] = {name: [] for name in layers}

    def run_node(self, n: fx.Node) -> Any:
        """As the interpreter does, and look at what a layer gives."""
        result = super().run_node(n)
        layer = self.layers.get(n)
        if layer is not None:
            self.found[layer.name].append(self._seen(layer, result))
        return result

    def _seen(self, layer: _Layer, output: Tensor) -> _Seen:
        rows = _by_position(output, isinstance(layer.geometry, Conv))
        wanted = -(-_rows(layer) * len(output) // self.images)
        random = np.random.default_rng((zlib.crc32(layer.name.encode()), len(self.found[layer.name])))
        positions = random.permutation(len(rows)) if len(rows) <= wanted else random.integers(0, len(rows), wanted)
        return _Seen(positions, rows[positions].numpy())


def _rows(layer: _Layer) -> int:
    return min(max(_ROWS * layer.width, _FEWEST), _MOST)


def _by_position(values: Tensor, is_conv: bool) -> Tensor:
    """(positions, M)."""
    rows = values.moveaxis(1, -1) if is_conv else values
    return rows.reshape(-1, rows.shape[-1])


def _fit_(
    module: fx.GraphModule, layers: Mapping[str, _Layer], beside: Example, gone: Mapping[str, Sequence[int]]
) -> dict[str, tuple[float, float]]:
    """Run all chunks abreast, and give each layer its new weights before it runs; returns what was and is lost."""
    found = {node: layers[weight.layer] for weight, node in layers_of(module) if weight.layer in layers}
    passes = [fx.Interpreter(module) for _ in beside.chunks]
    for each, chunk in zip(passes, beside.chunks, strict=True):
        each.args_iter = iter((chunk.images,))
    lost = {}
    for node in module.graph.nodes:
        layer = found.get(node)
        if layer is not None:
            data = [each.env[node.args[0]].numpy() for each in passes]
            change = _fit_layer_(module, layer, _equations(module, layer, data, beside, gone.get(layer.name, ())))
            lost.update({} if change is None else {layer.name: change})
        for each in passes:
            each.env[node] = each.run_node(node)
            for dead in each.user_to_last_uses.get(node, ()):
                del each.env[dead]
    return lost


class _Equations(NamedTuple):
    """Of a layer's groups: inputs (G, n, K), what its outputs lack (G, n, M / G), and the outputs' variance."""

    inputs: Tensor
    lacks: Tensor
    variance: float


def _equations(
    module: fx.GraphModule, layer: _Layer, data: Sequence[Array], beside: Example, gone: Sequence[int]
) -> tuple[_Equations, _Equations]:
    """Those to learn from, and those held out."""
    weight = torch.from_numpy(layer.geometry.matrix(_value(module, layer.weight)))
    bias = 0.0 if layer.bias is None else _value(module, layer.bias)
    seen = beside.seen[layer.name]
    sides = []
    for held_out in (False, True):
        mine = [i for i, chunk in enumerate(beside.chunks) if chunk.held_out is held_out]
        inputs = torch.from_numpy(np.concatenate([layer.geometry.rows(data[i], seen[i].positions) for i in mine], 1))
        outputs = np.delete(np.concatenate([seen[i].outputs for i in mine]), list(gone), axis=1)
        rest = torch.from_numpy(outputs - bias).reshape(len(outputs), len(weight), -1).transpose(0, 1)
        lacks = rest - inputs @ weight.transpose(1, 2)
        sides.append(_Equations(inputs, lacks, float(outputs.var(0).sum())))
    return sides[0], sides[1]


def _fit_layer_(
    module: fx.GraphModule, layer: _Layer, sides: tuple[_Equations, _Equations]
) -> tuple[float, float] | None:
    """Give a layer the weights and the bias that make its error on held-out rows least.

    None where none does, and for a layer whose outputs do not vary on them, as behind the mean of a single image.
    """
    learned, held_out = sides
    best, change = _error(held_out.lacks), None
    before = best
    if before <= _EXACT * held_out.variance or held_out.variance == 0:
        return None
    for candidate in _candidates(layer, learned):
        error = _error(held_out.lacks - held_out.inputs @ candidate.weight - candidate.bias)
        if error < _WORTH * best:
            best, change = error, candidate
    if change is None:
        return None
    weight = _value(module, layer.weight)
    step = layer.geometry.weight(change.weight.transpose(1, 2).numpy(), weight.shape)
    _set_(module, layer.weight, weight + step)
    if layer.bias is not None:
        _set_(module, layer.bias, _value(module, layer.bias) + change.bias.numpy().reshape(-1))
    whole = held_out.variance or before  # a layer that always gives the same
    return before / whole, best / whole


class _Change(NamedTuple):
    """What is added to a layer's weight, (G, K, M / G), and to its bias, (G, 1, M / G)."""

    weight: Tensor
    bias: Tensor


def _candidates(layer: _Layer, side: _Equations) -> Iterator[_Change]:
    """The bias alone, then ridge after ridge the weight, too."""
    inputs, lacks = side.inputs, side.lacks
    groups, count, width = inputs.shape
    factor = 0.0 if layer.bias is None else 1.0
    middle, rest = factor * inputs.mean(1, keepdim=True), factor * lacks.mean(1, keepdim=True)
    yield _Change(torch.zeros(groups, width, lacks.shape[2]), rest)
    if width > _WIDEST:
        return
    centred = inputs - middle
    square = (centred.transpose(1, 2) @ centred / count).double()
    cross = (centred.transpose(1, 2) @ (lacks - rest) / count).double()
    # The same for all inputs: those that hardly vary get no large weights, which would be no good to train or quantize.
    scale = square.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + torch.finfo(torch.float32).tiny
    for ridge in _RIDGES:
        solved = torch.linalg.solve(square + ridge * scale * torch.eye(width, dtype=torch.float64), cross).float()
        yield _Change(solved, rest - middle @ solved)


def _error(lacks: Tensor) -> float:
    """The mean square, summed over outputs."""
    return float(lacks.square().mean(1, dtype=torch.float64).sum())


def _value(module: fx.GraphModule, tensor: str) -> Array:
    values: Array = module.get_parameter(module.meta["parameters"][tensor]).detach().numpy()
    return values


def _set_(module: fx.GraphModule, tensor: str, value: Array) -> None:
    module.get_parameter(module.meta["parameters"][tensor]).copy_(torch.from_numpy(value.astype(np.float32)))
