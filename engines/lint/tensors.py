"""What is wrong with the tensors of a graph, or with the graph as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from engines.lint.finding import Finding
from engines.lint.params import type_name
from engines.lint.targets import Takes
from engines.lint.view import View, read_array
from engines.onnx_graph import first_line, is_standard

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_ONE_TYPE = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Concat", "Conv", "ConvTranspose", "Gemm"}) | {
    "MatMul",
    "PRelu",
    "Mean",
    "Equal",
    "Greater",
    "Less",
    "GreaterOrEqual",
    "LessOrEqual",
}


def findings(view: View, target: Takes) -> Iterator[Finding]:
    """What is wrong with the values and types of a graph."""
    if target.tensorrt:
        yield from _double(view, target)
        yield from _bf16(view, target)
    yield from _not_finite(view)
    yield from _mixed(view)


def model_findings(model: onnx.ModelProto, view: View, target: Takes) -> Iterator[Finding]:
    """What is wrong with the model as a whole."""
    if not view.nodes or not view.outputs:
        yield Finding(
            "empty",
            "refused",
            "graph",
            f"{len(view.nodes)} nodes, {len(view.outputs)} outputs",
            "there is nothing to build; TensorRT's parser accepts it without a word",
            "export the model again",
        )
        return
    yield from _invalid(model)
    yield from _opset(view, target)
    yield from _dynamic(view, target)
    yield from _names(view, target)
    if not view.quants:
        yield Finding(
            "no_qdq",
            "note",
            "graph",
            "no QuantizeLinear or DequantizeLinear",
            "everything runs in float",
            "quantize it, if INT8 is wanted",
        )


def _invalid(model: onnx.ModelProto) -> Iterator[Finding]:
    try:
        onnx.checker.check_model(_without_files(model))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        yield Finding(
            "invalid",
            "note",
            "graph",
            f"no valid ONNX: {first_line(error)}",
            "runtimes differ in what they let pass",
            "export the model again",
        )


def _without_files(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights in other files are empty: the checker would look for the files beside this process."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    for tensor in new.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
            tensor.raw_data = b""
            del tensor.dims[:]
            tensor.dims.append(0)
    return new


def _opset(view: View, target: Takes) -> Iterator[Finding]:
    if view.opset > target.formats.newest_opset:
        yield Finding(
            "opset",
            "refused" if target.name == "TensorRT 8" else "note",
            "graph",
            f"opset {view.opset}",
            f"{target.name} reads opset {target.formats.newest_opset} at most",
            f"export the model with opset {target.formats.newest_opset}, or convert it",
        )


def _dynamic(view: View, target: Takes) -> Iterator[Finding]:
    if not target.tensorrt:
        return
    for value in view.graph.input:
        shape = view.shapes.get(value.name)
        if value.name not in view.tensors and (shape is None or min(shape, default=1) < 1):
            shown = "unknown" if shape is None else "x".join(str(n) if n > 0 else "?" for n in shape)
            yield Finding(
                "dynamic_shape",
                "note",
                value.name,
                f"an input of shape {shown}",
                f"{target.name} needs an optimization profile for it",
                "give the builder one, or fix the shape",
            )


def _names(view: View, target: Takes) -> Iterator[Finding]:
    counts = Counter(node.name for node in view.nodes)
    bad = [node for node in view.nodes if not node.name or counts[node.name] > 1]
    if bad and target.tensorrt:
        unnamed = counts[""]
        yield Finding(
            "names",
            "note",
            view.label(bad[0]),
            f"{unnamed} nodes without a name, {len(bad) - unnamed} that share one",
            "the builder's log names layers: theirs cannot be told apart",
            "give every node a name of its own",
        )


# --- values and types


def _double(view: View, target: Takes) -> Iterator[Finding]:
    names = {name for name, kind in view.types.items() if kind == TensorProto.DOUBLE}
    made = [name for node in view.nodes for name in node.output if name in names]
    given = [v.name for v in view.graph.input if v.name in names and v.name not in view.tensors]
    for name in [*given, *made][:1]:
        yield Finding(
            "double",
            "changed",
            name,
            f"{len(names)} tensors of type double",
            f"{target.name} silently computes in float32",
            "cast them to float32 in the graph",
        )


def _bf16(view: View, target: Takes) -> Iterator[Finding]:
    first = next((name for name, kind in view.types.items() if kind == TensorProto.BFLOAT16), None)
    if first is not None and target.formats.bf16_from is None:
        yield Finding(
            "bf16",
            "refused",
            first,
            "tensors of type bfloat16",
            f"{target.name} has no BF16",
            "use FP16, or FP32",
        )


def _not_finite(view: View) -> Iterator[Finding]:
    own = {tensor.name: tensor for tensor in view.graph.initializer}
    own |= {
        node.output[0]: view.tensors[node.output[0]]
        for node in view.nodes
        if node.op_type == "Constant" and node.output[0] in view.tensors
    }
    scales = {node.input[1] for node in view.nodes if node.output and node.output[0] in view.quants}
    for name, tensor in own.items():
        if tensor.data_type in _FLOATS and name not in scales:
            values = read_array(tensor, view.folder)
            bad = np.size(values) - int(np.isfinite(values.astype(np.float32, copy=False)).sum())
            if bad and not _is_limit(values):
                yield Finding(
                    "not_finite",
                    "changed",
                    name,
                    f"{bad} of {np.size(values)} weights are NaN or infinite",
                    "it builds without a word, and what it computes is NaN",
                    "check the training run or the export",
                )


def _is_limit(values: np.typing.NDArray[np.generic]) -> bool:
    """Whether it may be meant: an infinite limit of a Clip, the minus infinity of an attention mask."""
    numbers = values.astype(np.float32)
    return not np.isnan(numbers).any() and (numbers.size == 1 or bool((numbers[~np.isfinite(numbers)] < 0).all()))


def _mixed(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        if is_standard(node) and node.op_type in _ONE_TYPE:
            kinds = list(dict.fromkeys(_kind(view, name) for name in node.input if name))
            floats = [kind for kind in kinds if kind in _FLOATS]
            if len(floats) > 1:
                yield Finding(
                    "mixed_types",
                    "refused",
                    view.label(node),
                    f"{node.op_type} of {' and '.join(type_name(kind) for kind in floats)}",
                    "its inputs must have one type",
                    "cast them to one type in the graph",
                )


def _kind(view: View, name: str) -> int:
    return view.types.get(name, TensorProto.UNDEFINED)
