"""What an engine's layers are, in numbers: what multiplies in which type, and what is there only to convert."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from engines.layer_map.layer import BuilderLayer
from engines.layer_map.precision import generated_steps, product_precision

_MOVES = frozenset({"Cast", "Conc", "Move", "Repl", "Resh", "Slic", "Tran"})
_SCALES = frozenset({"Max", "Min", "Mul", "Roun"})
_CONVERSIONS = frozenset({"Cast", "Reformat"})


@dataclass(frozen=True)
class Counts:
    """The layers of an engine, counted.

    Attributes:
        products: layers that multiply by weights, or two activations, by kind and by precision.
        conversions: layers that only change a type or a layout, or copy.
        conversion_bytes: what they read and write in one run; None where the engine does not tell shapes.
        loose_qdq: layers that do nothing but quantize or dequantize: Q/DQ that nothing was fused with.
        loose_qdq_bytes: what they read and write in one run.
        horizontal: products that stand for several weighted ONNX nodes.
        nameless: products that name no weighted ONNX node, as some that were fused horizontally.
    """

    products: Mapping[str, Mapping[str, int]]
    conversions: int
    conversion_bytes: int | None
    loose_qdq: int
    loose_qdq_bytes: int | None
    horizontal: int
    nameless: int

    @property
    def precisions(self) -> Mapping[str, int]:
        """The products of all kinds by precision, most first."""
        total = Counter[str]()
        for found in self.products.values():
            total.update(found)
        return dict(total.most_common())


def count_layers(layers: Collection[BuilderLayer], weighted: Collection[str]) -> Counts:
    """Count the layers of a TensorRT engine whose weighted ONNX nodes have these names."""
    products: defaultdict[str, Counter[str]] = defaultdict(Counter)
    named: Counter[int] = Counter()
    known = frozenset(weighted)
    for layer in layers:
        precision = product_precision(layer)
        if precision is not None:
            products[layer.kind][precision] += 1
            named[len(known.intersection(layer.nodes))] += 1
    conversions = [layer for layer in layers if _converts(layer)]
    qdq = [layer for layer in layers if _quantizes(layer)]
    return Counts(
        products={kind: dict(sorted(found.items())) for kind, found in sorted(products.items())},
        conversions=len(conversions),
        conversion_bytes=_bytes(conversions),
        loose_qdq=len(qdq),
        loose_qdq_bytes=_bytes(qdq),
        horizontal=sum(count for nodes, count in named.items() if nodes > 1),
        nameless=named[0],
    )


def _converts(layer: BuilderLayer) -> bool:
    steps = generated_steps(layer)
    return _MOVES.issuperset(steps) if steps else layer.kind in _CONVERSIONS and layer.origin != "QDQ"


def _quantizes(layer: BuilderLayer) -> bool:
    steps = generated_steps(layer)
    if not steps:
        return layer.kind == "Reformat" and layer.origin == "QDQ"
    return {"Cast", "Mul"} <= set(steps) <= _MOVES | _SCALES


def _bytes(layers: Iterable[BuilderLayer]) -> int | None:
    sizes = [layer.moved_bytes for layer in layers]
    return None if None in sizes else sum(size for size in sizes if size is not None)
