"""How far the layers of one network are from those of another, in the order of the graph."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx

from avcompress.contract import DriftTerm
from avcompress.spec import Array, Batch, Check, DataError, ModelError, RecipeError
from engines.activations import Activations, Open, activation_nodes, by_ort
from engines.network import read_network
from engines.onnx_graph import infer_shapes, shapes

_PASS_BYTES = 2**28
"""What one pass keeps of each network at most, as far as shapes are known; more layers take more passes."""
_CHUNK = 2**16  # values summed at once: what a core's cache holds


@dataclass(frozen=True)
class LayerDrift:
    """One tensor that both networks compute.

    Attributes:
        layer: the node that computes it, in the reference.
        tensor: its name.
        sqnr_db: 10 log10 of the reference's energy over the difference's; infinite where they are equal, NaN where one
            is NaN or infinite and the other is not.
        cosine: of the angle between both, -1 to 1; NaN where one is zero throughout and the other is not.
        max_error: the largest absolute difference, in the tensor's own unit.
        amplitude: the largest absolute value of the reference.
    """

    layer: str
    tensor: str
    sqnr_db: float
    cosine: float
    max_error: float
    amplitude: float


def compare_layers(
    reference: Path | onnx.ModelProto,
    network: Path | onnx.ModelProto,
    batches: Iterable[Batch],
    layers: Sequence[str] = ("*",),
    run: Open = by_ort,
) -> tuple[LayerDrift, ...]:
    """Every activation of the reference that the network has under the same name, over all batches, in graph order.

    A quantized network keeps the float network's names: each tensor is taken before its own Q/DQ.

    Args:
        reference: computed by ONNX Runtime, graph optimizations off.
        network: computed by `run`.
        batches: inputs of both, each used once.
        layers: fnmatch patterns on the names of the reference's nodes.
        run: `by_ort`, or `by_openvino`, which leaves out what OpenVINO does not compute.

    Raises ModelError for networks that share no tensor, or no shape; RecipeError for a pattern without a layer;
    DataError without a batch.
    """
    left, right = (
        read_network(item, dynamic=True) if isinstance(item, Path) else item for item in (reference, network)
    )
    nodes = _shared(left, right, layers)
    sums: dict[str, _Sums] = {}
    with ExitStack() as held:
        passes = [
            (held.enter_context(by_ort(left, group)), held.enter_context(run(right, group)))
            for group in _grouped(left, nodes)
        ]
        for batch in batches:
            for pair in passes:
                _add_(sums, batch, pair)
    if not sums:
        raise DataError(
            "drift: expected at least one batch, and a tensor of numbers in both networks, got none; check the images"
        )
    return tuple(sums[name].drift(layer, name) for name, layer in nodes.items() if name in sums)


def _shared(reference: onnx.ModelProto, network: onnx.ModelProto, patterns: Sequence[str]) -> dict[str, str]:
    """The tensors to compare, and the reference's node of each."""
    nodes, others = activation_nodes(reference), activation_nodes(network)
    chosen = {tensor: layer for tensor, layer in nodes.items() if _matches(layer, patterns)}
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in nodes.values()):
            raise RecipeError(
                f"drift, layers: expected patterns that match a layer of the network, got {pattern!r}, which matches "
                f"none; its first layer is {next(iter(nodes.values()), 'missing')!r}"
            )
    shared = {tensor: layer for tensor, layer in chosen.items() if tensor in others}
    if not shared:
        raise ModelError(
            f"drift: expected a network with the tensors of its reference, got one that has none of {len(chosen)} by "
            "the same name; compare it with the float network that it was made from"
        )
    return shared


def _matches(layer: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(layer, pattern) for pattern in patterns)


def _grouped(model: onnx.ModelProto, tensors: Collection[str]) -> list[list[str]]:
    """The tensors in groups, each of which fits the memory of a pass."""
    known = shapes(infer_shapes(model))
    groups: list[list[str]] = [[]]
    filled = 0
    for tensor in tensors:
        size = 4 * max(math.prod(known.get(tensor, ())), 1)
        if groups[-1] and filled + size > _PASS_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    return groups


def _add_(sums: dict[str, _Sums], batch: Batch, pair: tuple[Activations, Activations]) -> None:
    expected, found = (run(batch) for run in pair)
    for name, right in expected.items():
        if name in found and np.issubdtype(right.dtype, np.floating):
            if right.shape != found[name].shape:
                raise ModelError(
                    f"drift, tensor {name!r}: expected shape {right.shape} as in the reference, got "
                    f"{found[name].shape}; compare the network with the one that it was made from"
                )
            sums.setdefault(name, _Sums()).add_(right, found[name])


def _product(one: Array, other: Array) -> float:
    """The inner product. BLAS would start threads for it, which wait for those of the runtime: ten times as long."""
    return float(np.einsum("i,i->", one, other))


@dataclass
class _Sums:
    """What is kept of one tensor in both networks: sums of squares and products over all that was finite."""

    signal: float = 0.0
    noise: float = 0.0
    energy: float = 0.0
    product: float = 0.0
    max_error: float = 0.0
    amplitude: float = 0.0
    broken: bool = False

    def add_(self, expected: Array, found: Array) -> None:
        """Add one batch's values, of the same shape."""
        right, got = expected.ravel(), found.ravel()
        for start in range(0, right.size, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            self._add_(right[chunk].astype(np.float64), got[chunk].astype(np.float64))

    def _add_(self, right: Array, got: Array) -> None:
        finite = np.isfinite(right) & np.isfinite(got)
        if not finite.all():
            # A mask's minus infinity is no difference where both have it.
            same = (right == got) | (np.isnan(right) & np.isnan(got))
            self.broken |= bool((~finite & ~same).any())
            right, got = right[finite], got[finite]
        difference = right - got
        self.signal += _product(right, right)
        self.noise += _product(difference, difference)
        self.energy += _product(got, got)
        self.product += _product(right, got)
        self.max_error = max(self.max_error, float(np.abs(difference).max(initial=0)))
        self.amplitude = max(self.amplitude, float(np.abs(right).max(initial=0)))

    def drift(self, layer: str, tensor: str) -> LayerDrift:
        """The figures."""
        broken = self.broken
        sqnr = math.nan if broken else decibels(self.signal, self.noise)
        cosine = math.nan if broken else self._cosine()
        return LayerDrift(layer, tensor, sqnr, cosine, math.inf if broken else self.max_error, self.amplitude)

    def _cosine(self) -> float:
        if self.signal == self.energy == 0:
            return 1.0
        both = math.sqrt(self.signal) * math.sqrt(self.energy)
        return min(max(self.product / both, -1.0), 1.0) if both else math.nan


def decibels(signal: float, noise: float) -> float:
    """Signal to noise in dB: infinite without noise, minus infinite with nothing but noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def first_beyond(
    drifts: Iterable[LayerDrift], min_sqnr_db: float, patterns: Sequence[str] = ("*",)
) -> LayerDrift | None:
    """The first layer, in graph order, whose signal to noise is below the bound, or is NaN; None where all keep it."""
    matching = (drift for drift in drifts if _matches(drift.layer, patterns))
    return next((drift for drift in matching if not drift.sqnr_db >= min_sqnr_db), None)


def judge_drift(term: DriftTerm, drifts: Sequence[LayerDrift]) -> tuple[Check, str]:
    """The contract's term as a check on the worst layer, and a line about the first that breaks it; "" where all keep.

    Measured is NaN, which never passes, where no layer was compared or one is NaN.
    """
    chosen = [drift for drift in drifts if _matches(drift.layer, term.layers)]
    values = [drift.sqnr_db for drift in chosen]
    worst = math.nan if not values or any(map(math.isnan, values)) else min(values)
    check = Check("SQNR of every layer", worst, ">=", term.min_sqnr_db, "dB")
    if not chosen:
        return check, f"not measured: no layer matches {', '.join(term.layers)}; see to `contract.drift.layers`"
    first = first_beyond(chosen, term.min_sqnr_db)
    if first is None:
        return check, ""
    beyond = sum(not value >= term.min_sqnr_db for value in values)
    return check, f"{beyond} of {len(chosen)} layers are beyond; the first is {first.layer}, {first.sqnr_db:.1f} dB"
