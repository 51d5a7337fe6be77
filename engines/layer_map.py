"""Which precision every weighted ONNX node really runs in, read from the builder's log, and held against the plan.

TensorRT prints, at profiling verbosity DETAILED, one line a layer with the ONNX nodes it came from. A layer that was
fused horizontally may lose those names: its nodes are `unknown`, and unknown never passes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from typing_extensions import assert_never

from avcompress.spec import LayerPlan, Precision

PRECISIONS = {"Int8": "int8", "Half": "fp16", "Float": "fp32", "BFloat16": "bf16", "FP8": "fp8"}
UNKNOWN = "unknown"
_FLOATS = frozenset({"fp32", "fp16", "bf16", "float"})
_PRODUCTS = frozenset({"correlation", "convolution", "deconv", "gemm"})
# A fusion is called after what it holds, `__myl_CorrSilu`; an elementwise one names the convolution before it too.
_FUSED_PRODUCT = re.compile(r"Corr|Conv|Gemm|Fc|Deco|MatM")
_SUM_OF_PRODUCTS = re.compile(r"MulSum")

_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, Metadata: ?(?P<nodes>.*)$"
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*)\]")
_SEPARATORS = re.compile(r"[\x1d-\x1f]")


@dataclass(frozen=True)
class BuilderLayer:
    """One layer of an engine: its kind, the data types of what it reads and writes, the ONNX nodes it came from."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Mismatch:
    """A weighted layer that does not run as the recipe planned; `message` is for people."""

    name: str
    planned: str
    got: str
    message: str


def parse_layers(log: str) -> tuple[BuilderLayer, ...]:
    """Read the layers that a builder's log lists; other lines are passed over."""
    # Only "\n" ends a line: the separators between node names count as line ends to str.splitlines.
    matches = (_LINE.match(line) for line in log.split("\n"))
    return tuple(_layer(match) for match in matches if match)


def _layer(match: re.Match[str]) -> BuilderLayer:
    parts = (_NODE.fullmatch(part.strip()) for part in _SEPARATORS.split(match["nodes"]))
    return BuilderLayer(
        name=match["name"],
        kind=match["kind"],
        inputs=tuple(_DATATYPE.findall(match["inputs"])),
        constants=tuple(_DATATYPE.findall(match["constants"])),
        outputs=tuple(_DATATYPE.findall(match["outputs"])),
        nodes=tuple(part[1] for part in parts if part),
    )


def layer_precisions(layers: Iterable[BuilderLayer], weighted: Iterable[str]) -> dict[str, str]:
    """What each weighted node computes in: int8, fp16, fp32, bf16, fp8, or unknown.

    Products that lost their names count for the nodes that no layer names, where there are as many of the one as of the
    other and all of one precision: nothing else can have computed those nodes.
    """
    names = tuple(weighted)
    found: defaultdict[str, set[str]] = defaultdict(set)
    nameless: list[str] = []
    for layer in layers:
        precision = _compute_precision(layer)
        if precision is None:
            continue
        if not layer.nodes:
            nameless.append(precision)
        for node in layer.nodes:
            found[node].add(precision)
    missing = [name for name in names if name not in found]
    left = _only(set(nameless)) if len(nameless) == len(missing) else UNKNOWN
    return {name: _only(found[name]) if name in found else left for name in names}


def _only(precisions: set[str]) -> str:
    return next(iter(precisions)) if len(precisions) == 1 else UNKNOWN


def _compute_precision(layer: BuilderLayer) -> str | None:
    """The type that a layer multiplies in; None for a layer that multiplies no weights."""
    if not _multiplies(layer):
        return None
    operands = (*layer.inputs, *layer.constants)
    precision = PRECISIONS.get(layer.inputs[0], UNKNOWN) if layer.inputs else UNKNOWN
    # INT8 arithmetic needs both operands in INT8, and a generated kernel may convert what it reads.
    if precision == "int8" and (operands.count("Int8") < 2 or layer.kind == "kgen"):
        return UNKNOWN
    return precision


def _multiplies(layer: BuilderLayer) -> bool:
    if layer.kind == "runtime_fusion":
        return _FUSED_PRODUCT.search(layer.name) is not None
    if layer.kind == "kgen":  # a vector times a matrix
        return _SUM_OF_PRODUCTS.search(layer.name) is not None
    return layer.kind in _PRODUCTS


def compare(plan: Sequence[LayerPlan], precisions: Mapping[str, str]) -> tuple[Mismatch, ...]:
    """Hold what the engine does against what the recipe planned, layer by layer."""
    mismatches = (_mismatch(layer, precisions.get(layer.name, UNKNOWN)) for layer in plan)
    return tuple(mismatch for mismatch in mismatches if mismatch is not None)


def as_planned(planned: Precision, got: str) -> bool:
    """Whether an engine that tells this type for a layer runs it as planned.

    Weights that are stored as integers are multiplied in float. Dynamic quantization may be computed either way: the
    numbers are the same.
    """
    match planned:
        case "int8" | "fp8" | "fp16" | "bf16":
            return got == planned
        case "float" | "int8 weights" | "int4 weights":
            return got in _FLOATS
        case "int8 dynamic":
            return got == "int8" or got in _FLOATS
        case _:
            assert_never(planned)


def _mismatch(layer: LayerPlan, got: str) -> Mismatch | None:
    if as_planned(layer.precision, got):
        return None
    if got == UNKNOWN:
        message = f"{layer.name} ({layer.op}): planned {layer.precision}, and the engine does not say what it runs in"
    else:
        message = f"{layer.name} ({layer.op}): planned {layer.precision}, but it runs in {got}"
    return Mismatch(layer.name, layer.precision, got, message)


def layers_json(layers: Sequence[BuilderLayer], precisions: Mapping[str, str]) -> str:
    """The layer map as a file: what each weighted node runs in, and the engine's own layers."""
    content = {"precisions": dict(precisions), "layers": [asdict(layer) for layer in layers]}
    return json.dumps(content, indent=1) + "\n"
