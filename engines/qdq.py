"""QuantizeLinear and DequantizeLinear in an ONNX graph: inserting them, reading them, taking them out again.

Every format of spec.QDtype, per tensor, per channel and, for 2-D weights, in blocks. The arithmetic is ONNX's: divide
by the scale in float32, round half to even, add the zero point, saturate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from avcompress.spec import Array, ModelError, QDtype, QuantParams
from engines.onnx_graph import (
    Edge,
    attribute,
    check,
    copy,
    drop_unused_initializers,
    fresh,
    infer_shapes,
    initializers,
    is_standard,
    node_inputs,
    set_nodes_,
    shapes,
    use_counts,
)
from engines.opset import at_opset

_NUMPY: Mapping[QDtype, type] = {
    "int8": np.int8,
    "uint8": np.uint8,
    "int4": ml_dtypes.int4,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
}
LIMITS: Mapping[QDtype, tuple[float, float]] = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int4": (-8, 7),
    "float8e4m3fn": (-448, 448),
}
"""The lowest and highest value of a format. Source: ONNX, "Float stored in 8 bits"; 448 is E4M3's largest number."""
_OPSETS: Mapping[QDtype, int] = {"int8": 13, "uint8": 13, "float8e4m3fn": 19, "int4": 21}
_BLOCK_OPSET = 21
_SUFFIX = "_dequantized"


# --- arrays


def quantize_array(values: Array, params: QuantParams) -> Array:
    """Values on the format's grid: divided by the scale in float32, rounded half to even, shifted, saturated.

    Returns: int8, uint8, or ml_dtypes' int4 or float8_e4m3fn; of the shape of `values`.
    Source: ONNX QuantizeLinear.
    """
    scale, zero_point = _expanded(params, values.shape)
    steps = values.astype(np.float32) / scale
    low, high = LIMITS[params.dtype]
    if params.dtype != "float8e4m3fn":  # FP8: the cast itself rounds, half to even; beyond 448 it would give NaN
        steps = np.rint(steps) + zero_point
    stored: Array = np.clip(steps, low, high).astype(_NUMPY[params.dtype])
    return stored


def dequantize_array(values: Array, params: QuantParams) -> NDArray[np.float32]:
    """The numbers that stored values stand for: (q - zero_point) * scale in float32. Source: ONNX DequantizeLinear."""
    scale, zero_point = _expanded(params, values.shape)
    real: NDArray[np.float32] = (values.astype(np.float32) - zero_point) * scale
    return real


def _expanded(params: QuantParams, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and zero point, float32, of a shape that broadcasts to the values'."""
    numbers = (np.array(params.scale, np.float32), np.array(params.zero_point, np.float32))
    scale, zero_point = (_broadcast(n.reshape(scale_shape(params, shape)), params, shape) for n in numbers)
    return scale, zero_point


def _broadcast(values: Array, params: QuantParams, shape: tuple[int, ...]) -> Array:
    if params.axis is None:
        return values
    if params.block_size is not None:
        return np.repeat(values, params.block_size, params.axis).take(range(shape[params.axis]), params.axis)
    return values.reshape([-1 if axis == params.axis else 1 for axis in range(len(shape))])


def scale_shape(params: QuantParams, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scales of a tensor: () per tensor, (C,) per channel, blocks along `axis` otherwise."""
    if params.axis is None:
        return ()
    if params.block_size is None:
        return (len(params.scale),)
    return tuple(-(-n // params.block_size) if axis == params.axis else n for axis, n in enumerate(shape))


# --- inserting


def insert_qdq(model: onnx.ModelProto, edges: Iterable[Edge], qparams: Mapping[str, QuantParams]) -> onnx.ModelProto:
    """Feed the given node inputs through QuantizeLinear and DequantizeLinear; every other use keeps the float tensor.

    An activation gets one pair for all its edges, before the first; an initializer is stored quantized with a
    DequantizeLinear. The opset is raised only where the format needs it: FP8 19, INT4 and blocks 21.

    Args:
        model: float, with unique node names and static shapes.
        edges: the node inputs to quantize.
        qparams: by name of the tensor at each edge.
    """
    wanted = sorted(set(edges))
    nodes = {node.name: node for node in model.graph.node}
    used = [qparams[tensor] for tensor in dict.fromkeys(nodes[name].input[index] for name, index in wanted)]
    new = copy(at_opset(model, max(map(_opset_for, used), default=0), "the format of the quantized values"))
    nodes = {node.name: node for node in new.graph.node}
    order = {name: i for i, name in enumerate(nodes)}
    taken = _names(new)
    constants = initializers(new)
    before: dict[str, list[onnx.NodeProto]] = {}
    dequantized: dict[str, str] = {}
    for name, index in sorted(wanted, key=lambda edge: (order[edge[0]], edge[1])):
        tensor = nodes[name].input[index]
        if tensor not in dequantized:
            pair, values = _qdq(tensor, constants.get(tensor), qparams[tensor], taken)
            before.setdefault(name, []).extend(pair)
            new.graph.initializer.extend(values)
            dequantized[tensor] = pair[-1].output[0]
        nodes[name].input[index] = dequantized[tensor]
    set_nodes_(new, [n for node in new.graph.node for n in (*before.get(node.name, ()), node)])
    return check(infer_shapes(drop_unused_initializers(new)))


def _opset_for(params: QuantParams) -> int:
    return max(_OPSETS[params.dtype], _BLOCK_OPSET if params.block_size is not None else 0)


def _names(model: onnx.ModelProto) -> set[str]:
    """Every name of a node or a tensor."""
    nodes = model.graph.node
    return {n.name for n in nodes} | set(use_counts(model)) | {output for n in nodes for output in n.output}


def _qdq(
    tensor: str, constant: onnx.TensorProto | None, params: QuantParams, taken: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes that quantize and dequantize a tensor, or only dequantize a constant, and their initializers."""
    quantized, dequantized, scale, zero_point = (
        fresh(f"{tensor}{suffix}", taken) for suffix in ("_quantized", _SUFFIX, "_scale", "_zero_point")
    )
    if constant is None and params.block_size is not None:
        raise ValueError(f"{tensor}: expected blocks on a weight only, got them on an activation")
    shape = scale_shape(params, tuple(constant.dims) if constant is not None else ())
    values = [
        numpy_helper.from_array(np.array(params.scale, np.float32).reshape(shape), scale),
        numpy_helper.from_array(np.array(params.zero_point).astype(_NUMPY[params.dtype]).reshape(shape), zero_point),
    ]
    nodes = []
    if constant is None:
        name = fresh(f"{tensor}_QuantizeLinear", taken)
        nodes.append(helper.make_node("QuantizeLinear", [tensor, scale, zero_point], [quantized], name))
    else:
        stored = quantize_array(numpy_helper.to_array(constant), params)
        values.append(numpy_helper.from_array(stored, quantized))
    name = fresh(f"{tensor}_DequantizeLinear", taken)
    nodes.append(helper.make_node("DequantizeLinear", [quantized, scale, zero_point], [dequantized], name))
    stated = {"axis": params.axis, "block_size": params.block_size}
    for node in nodes:
        node.attribute.extend(helper.make_attribute(k, v) for k, v in stated.items() if v is not None)
    return nodes, values


def insert_dynamic_qdq(model: onnx.ModelProto, edges: Iterable[Edge]) -> onnx.ModelProto:
    """Feed the given node inputs through DynamicQuantizeLinear and DequantizeLinear: uint8, a range for each image.

    A float operator after DequantizeLinear computes what ConvInteger and MatMulInteger would, and node names, biases
    and transposed convolutions stay as they are. On CPUs it is the faster form too: ONNX Runtime's ConvInteger takes
    4 to 7 times as long as its float convolution, and OpenVINO computes both forms in float.
    """
    new = copy(model)
    nodes = {node.name: node for node in new.graph.node}
    order = {name: i for i, name in enumerate(nodes)}
    taken = _names(new)
    before: dict[str, list[onnx.NodeProto]] = {}
    dequantized: dict[str, str] = {}
    for name, index in sorted(set(edges), key=lambda edge: (order[edge[0]], edge[1])):
        tensor = nodes[name].input[index]
        if tensor not in dequantized:
            quantized = [fresh(f"{tensor}{end}", taken) for end in ("_quantized", "_scale", "_zero_point")]
            dequantized[tensor] = fresh(f"{tensor}{_SUFFIX}", taken)
            kinds = (("DynamicQuantizeLinear", [tensor], quantized), ("DequantizeLinear", quantized, None))
            before.setdefault(name, []).extend(
                helper.make_node(kind, inputs, outputs or [dequantized[tensor]], fresh(f"{tensor}_{kind}", taken))
                for kind, inputs, outputs in kinds
            )
        nodes[name].input[index] = dequantized[tensor]
    set_nodes_(new, [n for node in new.graph.node for n in (*before.get(node.name, ()), node)])
    return check(infer_shapes(new))


# --- reading


@dataclass(frozen=True)
class QdqSite:
    """A DequantizeLinear whose values are known to be those of one float tensor on a grid.

    Attributes:
        tensor: the float tensor that is quantized: the input of QuantizeLinear; of a weight that is stored quantized,
            the name of the dequantized one without the ending that `insert_qdq` appends.
        edges: the node inputs that read the dequantized values.
        params: None for a format that QuantParams does not hold, as int16 or an INT32 bias.
        constant: a weight.
        quantize: the QuantizeLinear's name; "" for what is stored quantized.
        dequantize: the DequantizeLinear's name.
        output: the dequantized tensor.
    """

    tensor: str
    edges: tuple[Edge, ...]
    params: QuantParams | None
    constant: bool
    quantize: str
    dequantize: str
    output: str


def qdq_sites(model: onnx.ModelProto) -> tuple[QdqSite, ...]:
    """Every Q/DQ pair and every dequantized weight of a model, in graph order; by any tool.

    Not among them: pairs whose two scales or zero points differ, and scales that are not constant, as in dynamic
    quantization.
    """
    constants = constant_values(model)
    quantizers = {n.output[0]: n for n in model.graph.node if n.op_type == "QuantizeLinear" and is_standard(n)}
    ranks = {name: len(shape) for name, shape in shapes(model).items()}
    edges: dict[str, list[Edge]] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            edges.setdefault(name, []).append((node.name, index))
    names = set(constants)
    found = []
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or not is_standard(node):
            continue
        pair = quantizers.get(node.input[0])
        if not _is_site(node, pair, constants):
            continue
        stored = pair is None
        tensor = _weight_name(node.output[0], names) if pair is None else pair.input[0]
        found.append(
            QdqSite(
                tensor,
                tuple(edges.get(node.output[0], ())),
                _params(node, pair, constants, ranks),
                stored or tensor in constants,
                "" if pair is None else pair.name,
                node.name,
                node.output[0],
            )
        )
    return tuple(found)


def constant_values(model: onnx.ModelProto) -> dict[str, Array]:
    """The constants of the graph as arrays by name: initializers, and what Constant nodes hold as a tensor."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and is_standard(node):
            found.update((node.output[0], numpy_helper.to_array(a.t)) for a in node.attribute if a.name == "value")
    return found


def _weight_name(output: str, names: set[str]) -> str:
    """A name for the float weight; it is taken from now on."""
    plain = output.removesuffix(_SUFFIX)
    name = plain if plain not in names else output
    names.add(name)
    return name


def _is_site(node: onnx.NodeProto, pair: onnx.NodeProto | None, constants: Mapping[str, Array]) -> bool:
    operands = [name for name in node.input[1:] if name]
    if any(name not in constants for name in operands):
        return False
    if pair is None:
        return node.input[0] in constants
    return all(name in constants for name in pair.input[1:] if name) and _equal_grids(node, pair, constants)


def _equal_grids(node: onnx.NodeProto, pair: onnx.NodeProto, constants: Mapping[str, Array]) -> bool:
    scales = [constants[n.input[1]] for n in (node, pair)]
    zeros = [_zero_point(n, constants) for n in (node, pair)]
    stated = [(attribute(n, "axis", 1), attribute(n, "block_size", 0)) for n in (node, pair)]
    same_axis = scales[0].size == 1 or stated[0] == stated[1]
    return same_axis and np.array_equal(scales[0], scales[1]) and np.array_equal(zeros[0], zeros[1])


def _zero_point(node: onnx.NodeProto, constants: Mapping[str, Array]) -> Array:
    scale = constants[node.input[1]]
    if len(node.input) > 2 and node.input[2]:
        return constants[node.input[2]].astype(np.float32)
    return np.zeros(scale.shape, np.float32)


def _params(
    node: onnx.NodeProto, pair: onnx.NodeProto | None, constants: Mapping[str, Array], ranks: Mapping[str, int]
) -> QuantParams | None:
    dtype = _dtype(node, pair, constants)
    scale = constants[node.input[1]].astype(np.float32)
    if dtype is None or not (np.isfinite(scale) & (scale > 0)).all():
        return None
    axis, block = int(str(attribute(node, "axis", 1))), int(str(attribute(node, "block_size", 0)))
    tensor = node.input[0] if pair is None else pair.input[0]
    if axis < 0:
        rank = constants[tensor].ndim if tensor in constants else ranks.get(tensor, 0)
        axis += rank
    per_tensor = scale.size == 1 and not block
    return QuantParams(
        tuple(scale.reshape(-1).tolist()),
        tuple(int(zero) for zero in _zero_point(node, constants).reshape(-1)),
        dtype,
        None if per_tensor else axis,
        block or None,
    )


def _dtype(node: onnx.NodeProto, pair: onnx.NodeProto | None, constants: Mapping[str, Array]) -> QDtype | None:
    """The format of the stored values; ONNX's default is uint8."""
    zero = node.input[2] if len(node.input) > 2 else ""
    if pair is None:
        kind = constants[node.input[0]].dtype
    elif zero:
        kind = constants[zero].dtype
    else:
        stated = int(str(attribute(pair, "output_dtype", 0))) or onnx.TensorProto.UINT8
        kind = helper.tensor_dtype_to_np_dtype(stated)
    return next((name for name, own in _NUMPY.items() if kind == own), None)


def qdq_edges(model: onnx.ModelProto) -> tuple[tuple[Edge, ...], dict[str, QuantParams]]:
    """What `insert_qdq` would need to quantize `without_qdq(model)` as this model is.

    Raises ModelError where one tensor is quantized in two ways. Formats that QuantParams does not hold are left out.
    """
    edges: list[Edge] = []
    qparams: dict[str, QuantParams] = {}
    for site in qdq_sites(model):
        if site.params is None:
            continue
        if qparams.setdefault(site.tensor, site.params) != site.params:
            raise ModelError(
                f"tensor {site.tensor!r}: expected one scale and zero point for all its uses, got two "
                f"({site.dequantize!r}); quantize it once"
            )
        edges.extend(site.edges)
    return tuple(edges), qparams


# --- taking out


def without_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float network of a quantized one, its weights the dequantized ones; all nodes but Q/DQ stay as they are.

    What `qdq_sites` does not list stays: pairs of two different scales, dynamic quantization.
    """
    new = copy(model)
    constants = constant_values(new)
    by_output = {node.output[0]: node for node in new.graph.node if node.output}
    replaced: dict[str, str] = {}
    spent: set[str] = set()
    for site in qdq_sites(new):
        node = by_output[site.output]
        if site.constant:
            values = _dequantized(node, by_output.get(node.input[0]), constants)
            new.graph.initializer.append(numpy_helper.from_array(values, _free_weight(site, new)))
            replaced[site.output] = new.graph.initializer[-1].name
        else:
            replaced[site.output] = site.tensor
        spent.update((site.output, node.input[0]))
    for reader in new.graph.node:
        for index, tensor in enumerate(reader.input):
            reader.input[index] = replaced.get(tensor, tensor)
    set_nodes_(new, _kept(new, replaced, spent))
    return check(infer_shapes(drop_unused_initializers(new)))


def _free_weight(site: QdqSite, model: onnx.ModelProto) -> str:
    """The float weight's name; a weight that is quantized in the graph, from a float constant, gets a new one."""
    return fresh(site.output if site.quantize else site.tensor, {tensor.name for tensor in model.graph.initializer})


def _dequantized(node: onnx.NodeProto, pair: onnx.NodeProto | None, constants: Mapping[str, Array]) -> Array:
    """The dequantized values of a constant, of the type of the scale."""
    quantize_here = pair is not None and pair.op_type == "QuantizeLinear"
    params = _params(node, pair if quantize_here else None, constants, {})
    scale = constants[node.input[1]]
    if params is None:  # INT32 biases and the like: dequantized as they are, per tensor or along the last axis there is
        shape = [-1] + [1] * (constants[node.input[0]].ndim - 1) if scale.size > 1 else []
        zero = _zero_point(node, constants).astype(np.float64).reshape(shape)
        real = (constants[node.input[0]].astype(np.float64) - zero) * scale.astype(np.float64).reshape(shape)
        return np.asarray(real).astype(scale.dtype)
    stored = quantize_array(constants[pair.input[0]], params) if quantize_here and pair else constants[node.input[0]]
    return dequantize_array(stored, params).astype(scale.dtype)


def _kept(model: onnx.ModelProto, replaced: Mapping[str, str], spent: set[str]) -> Iterator[onnx.NodeProto]:
    """The nodes without those that lost their readers; a name that something else reads is kept by an Identity."""
    uses = {output.name for output in model.graph.output}
    for node in model.graph.node:
        uses.update(node_inputs(node)[len(node.input) :])  # subgraphs
    read = {name for node in model.graph.node for name in node.input if node.output[0] not in replaced}
    for node in model.graph.node:
        output = node.output[0] if node.output else ""
        if output in replaced:
            if output in uses and replaced[output] != output:
                yield helper.make_node("Identity", [replaced[output]], [output], node.name)
        elif output not in spent or output in uses or output in read:
            yield node
