"""A small indexed view of an ONNX graph as users bring it.

Nodes may be unnamed or share a name, constants may hide in Constant nodes, weights may lie in another file, any opset.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from avcompress.spec import Array, ModelError
from engines.onnx_graph import attribute, first_line, is_standard, node_inputs

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
MICROSOFT = "com.microsoft"
_QDQ_DOMAINS = frozenset({"", "ai.onnx", MICROSOFT})
_FIRST_PER_AXIS = 13  # opset: Q/DQ are per tensor before it


@dataclass(frozen=True, eq=False)
class Quant:
    """A QuantizeLinear or DequantizeLinear.

    Attributes:
        node, label: the node, and what it is called in findings.
        tensor: what it reads.
        scale: None where it is no stored constant.
        zero_point: None where it is left out, or no stored constant.
        dtype: of the integer side, an ONNX element type; UNDEFINED where nothing says.
        explicit: whether the file states that type, rather than ONNX's default, uint8.
        axis: of per-channel scales.
        block_size: of scales by blocks along the axis; 0: none.
    """

    node: onnx.NodeProto
    label: str
    tensor: str
    scale: Array | None
    zero_point: Array | None
    dtype: int
    explicit: bool
    axis: int
    block_size: int

    @property
    def output(self) -> str:
        """The tensor that it makes."""
        return str(self.node.output[0])

    @property
    def quantizes(self) -> bool:
        """Whether it is a QuantizeLinear."""
        return bool(self.node.op_type == QUANTIZE)

    @property
    def per_channel(self) -> bool:
        """Whether it has several scales."""
        return self.scale is not None and self.scale.size > 1

    def same_grid(self, other: Quant) -> bool:
        """Whether both have the same known integers for the same values; a missing zero point is 0."""
        if self.scale is None or other.scale is None or self.dtype != other.dtype or self.axis_of() != other.axis_of():
            return False
        zeros = [q.zero_point.tolist() if q.zero_point is not None and q.zero_point.any() else 0 for q in (self, other)]
        return self.scale.tolist() == other.scale.tolist() and zeros[0] == zeros[1]

    def axis_of(self) -> int | None:
        """The axis of its scales; None for one scale."""
        return self.axis if self.per_channel else None


@dataclass(frozen=True, eq=False)
class View:
    """One graph of a model, indexed.

    Attributes:
        graph: what the view is of.
        opset: of the standard operators.
        nodes: in the graph's order.
        producer: the node that makes a tensor.
        uses: the nodes that read a tensor, and as which input; those in subgraphs as input -1.
        tensors: the stored constants: initializers, Constant nodes, copies of them.
        constant: the tensors that are computed from constants alone, these too.
        outputs: of the graph.
        types, shapes: as far as they are stated or inferred; -1 for a dimension that is not known.
        labels: what a node is called in findings, by its first output.
        quants: by their output.
    """

    graph: onnx.GraphProto
    opset: int
    folder: Path | None
    nodes: tuple[onnx.NodeProto, ...]
    producer: Mapping[str, onnx.NodeProto]
    uses: Mapping[str, tuple[tuple[onnx.NodeProto, int], ...]]
    tensors: Mapping[str, TensorProto]
    constant: frozenset[str]
    outputs: frozenset[str]
    types: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    labels: Mapping[str, str]
    quants: dict[str, Quant] = field(default_factory=dict)

    def array(self, name: str) -> Array | None:
        """The value of a stored constant; None for any other tensor."""
        tensor = self.tensors.get(name)
        return None if tensor is None else read_array(tensor, self.folder)

    def label(self, node: onnx.NodeProto) -> str:
        """What a node is called in findings."""
        return self.labels.get(node.output[0] if node.output else "", node.name or node.op_type)

    def dequantized(self, tensor: str) -> Quant | None:
        """The DequantizeLinear that makes a tensor."""
        quant = self.quants.get(tensor)
        return quant if quant is not None and not quant.quantizes else None

    def pair(self, tensor: str) -> tuple[Quant, Quant] | None:
        """The QuantizeLinear and DequantizeLinear that make a tensor."""
        dequantize = self.dequantized(tensor)
        quantize = self.quants.get(dequantize.tensor) if dequantize else None
        return (quantize, dequantize) if dequantize and quantize and quantize.quantizes else None

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, each once."""
        return list({id(node): node for node, _ in self.uses.get(tensor, ())}.values())


def read_array(tensor: TensorProto, folder: Path | None) -> Array:
    """The values of a tensor, from the file beside the model where they are stored there; the tensor stays as it is.

    Raises ModelError when that file cannot be read.
    """
    if tensor.data_location != TensorProto.EXTERNAL:
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"weights {tensor.name!r}: expected {'x'.join(map(str, tensor.dims)) or 'one'} values, got: "
                f"{first_line(error)}; export the model again"
            ) from error
    loaded = TensorProto()
    loaded.CopyFrom(tensor)
    try:
        return numpy_helper.to_array(loaded, str(folder or "."))
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"weights {tensor.name!r}: expected to read them from the file beside the model, got: {first_line(error)}; "
            "export the model again"
        ) from error


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=1)


def is_qdq(node: onnx.NodeProto) -> bool:
    """Whether a node is a QuantizeLinear or a DequantizeLinear, of ONNX or of ONNX Runtime."""
    return node.op_type in {QUANTIZE, DEQUANTIZE} and node.domain in _QDQ_DOMAINS


def views(model: onnx.ModelProto, folder: Path | None = None) -> Iterator[View]:
    """The view of the model's graph, then of its subgraphs.

    Args:
        model: with its functions inlined.
        folder: of the files that hold its weights, if any do.
    """
    yield from _views(model.graph, _inferred(model).graph, opset_of(model), folder, None)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types and shapes that ONNX infers; as it is where it cannot."""
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return model


def _views(
    graph: onnx.GraphProto, inferred: onnx.GraphProto, opset: int, folder: Path | None, outer: View | None
) -> Iterator[View]:
    view = _view(graph, inferred, opset, folder, outer)
    yield view
    for node, other in zip(view.nodes, inferred.node, strict=True):
        for sub, sub_inferred in zip(subgraphs(node), subgraphs(other), strict=True):
            yield from _views(sub, sub_inferred, opset, folder, view)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches and bodies of a node."""
    for attr in node.attribute:
        if attr.type == onnx.AttributeProto.GRAPH:
            yield attr.g
        yield from attr.graphs


def _view(
    graph: onnx.GraphProto, inferred: onnx.GraphProto, opset: int, folder: Path | None, outer: View | None
) -> View:
    nodes = tuple(graph.node)
    tensors = {**(outer.tensors if outer else {}), **{tensor.name: tensor for tensor in graph.initializer}}
    _collect_constants_(nodes, tensors)
    stated = _stated(inferred)
    types = outer.types if outer else {}
    view = View(
        graph=graph,
        opset=opset,
        folder=folder,
        nodes=nodes,
        producer={output: node for node in nodes for output in node.output if output},
        uses=_uses(nodes),
        tensors=tensors,
        constant=_constants(nodes, tensors),
        outputs=frozenset(output.name for output in graph.output),
        types={**types, **{name: kind for name, (kind, _) in stated.items()}}
        | {name: tensor.data_type for name, tensor in tensors.items()},
        shapes={name: shape for name, (_, shape) in stated.items() if shape is not None}
        | {name: tuple(tensor.dims) for name, tensor in tensors.items()},
        labels=_labels(nodes),
    )
    for node in nodes:
        if is_qdq(node) and len(node.input) > 1 and node.output:
            view.quants[node.output[0]] = _quant(node, view)
    return view


def _collect_constants_(nodes: Iterable[onnx.NodeProto], tensors: dict[str, TensorProto]) -> None:
    """Add the values of Constant nodes, and of copies of constants, by the name of the node's output."""
    for node in nodes:
        if node.op_type == "Constant" and is_standard(node):
            value = _constant_value(node)
            if value is not None:
                tensors[node.output[0]] = value
        elif node.op_type == "Identity" and is_standard(node) and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]


def _constant_value(node: onnx.NodeProto) -> TensorProto | None:
    for attr in node.attribute:
        match attr.name:
            case "value":
                value: TensorProto = attr.t
                return value
            case "value_float" | "value_int":
                kind = TensorProto.FLOAT if attr.name == "value_float" else TensorProto.INT64
                return onnx.helper.make_tensor("", kind, [], [onnx.helper.get_attribute_value(attr)])
            case "value_floats" | "value_ints":
                kind = TensorProto.FLOAT if attr.name == "value_floats" else TensorProto.INT64
                values = list(onnx.helper.get_attribute_value(attr))
                return onnx.helper.make_tensor("", kind, [len(values)], values)
    return None


def _constants(nodes: Iterable[onnx.NodeProto], tensors: Mapping[str, TensorProto]) -> frozenset[str]:
    known = set(tensors)
    for node in nodes:
        named = [name for name in node_inputs(node) if name]
        # Without inputs: Constant, or random values, which no one takes for weights.
        if named and known.issuperset(named):
            known.update(node.output)
    return frozenset(known - {""})


def _uses(nodes: Iterable[onnx.NodeProto]) -> dict[str, tuple[tuple[onnx.NodeProto, int], ...]]:
    found: defaultdict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in nodes:
        for index, name in enumerate(node_inputs(node)):
            if name:
                found[name].append((node, index if index < len(node.input) else -1))
    return {name: tuple(places) for name, places in found.items()}


def _stated(graph: onnx.GraphProto) -> dict[str, tuple[int, tuple[int, ...] | None]]:
    found: dict[str, tuple[int, tuple[int, ...] | None]] = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        shape = (
            tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
            if kind.HasField("shape")
            else None
        )
        if kind.elem_type:
            found[value.name] = (kind.elem_type, shape)
    return found


def _labels(nodes: Iterable[onnx.NodeProto]) -> dict[str, str]:
    names = Counter(node.name for node in nodes)
    return {
        node.output[0]: node.name
        if node.name and names[node.name] == 1
        else f"{node.name or node.op_type} -> {node.output[0]}"
        for node in nodes
        if node.output
    }


def _quant(node: onnx.NodeProto, view: View) -> Quant:
    zero_point = node.input[2] if len(node.input) > 2 else ""
    dtype, explicit = _integer_type(node, zero_point, view)
    scale = view.array(node.input[1])
    return Quant(
        node=node,
        label=view.label(node),
        tensor=node.input[0],
        scale=scale,
        zero_point=view.array(zero_point) if zero_point else None,
        dtype=dtype,
        explicit=explicit,
        axis=_axis(node, view, scale),
        block_size=int(str(attribute(node, "block_size", 0))),
    )


def _axis(node: onnx.NodeProto, view: View, scale: Array | None) -> int:
    axis = int(str(attribute(node, "axis", 1)))
    if view.opset < _FIRST_PER_AXIS and scale is not None and scale.size == 1 and node.domain != MICROSOFT:
        return 0
    rank = len(view.shapes.get(node.input[0], ()))
    return axis + rank if axis < 0 and rank else axis


def _integer_type(node: onnx.NodeProto, zero_point: str, view: View) -> tuple[int, bool]:
    """The element type of the integer side, and whether the file states it."""
    if node.op_type == DEQUANTIZE:
        source = view.quants.get(node.input[0])
        kind = source.dtype if source is not None and source.quantizes else view.types.get(node.input[0])
        return kind or view.types.get(zero_point, TensorProto.UNDEFINED), True
    stated = view.types.get(zero_point) if zero_point else int(str(attribute(node, "output_dtype", 0)))
    if zero_point:
        return stated or TensorProto.UNDEFINED, True
    return stated or TensorProto.UINT8, bool(stated)
