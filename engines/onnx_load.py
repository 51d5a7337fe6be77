"""Reading a user's ONNX file: what cannot be compressed is refused in one line, the rest is brought into one form.

That form: batch 1 and static shapes, standard opset 13 to 23, weights as initializers, unique node names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import external_data_helper, helper, inliner, numpy_helper, version_converter

from avcompress.spec import WEIGHTED, ModelError
from engines import onnx_graph
from engines.in_memory import open_model
from engines.onnx_weights import load_weights_, stored_tensors

OLDEST_OPSET = 13  # the first with DequantizeLinear per channel
NEWEST_OPSET = 23  # the newest that TensorRT's parser reads
CONVERTED_OPSET = 17  # the newest that TensorRT 8.6 reads
_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
_WITH_WEIGHTS = WEIGHTED | {"BatchNormalization"}
_FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
)


def load_onnx(path: Path, input_size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """Read a float network with one image input, and bring it into the form that the other passes expect.

    Args:
        path: an .onnx file.
        input_size: height, width: what a dynamic input is fixed to, and a static one must be.

    Raises ModelError in one line naming the file.
    """
    try:
        model = _parsed(path)
        load_weights_(model, path.parent)
        refuse_unusable(model)
        model = _current_opset(model)
        model = onnx_graph.name_nodes(onnx_graph.fold_constants(model))
        model = _static(model, input_size)
        return onnx_graph.check(with_measured_shapes(onnx_graph.infer_shapes(model)))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def external_files(path: Path) -> tuple[str, ...]:
    """The files in the folder of an ONNX file that hold its weights, as it names them; raises ModelError."""
    try:
        stored = stored_tensors(_parsed(path))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    names = dict.fromkeys(external_data_helper.ExternalDataInfo(tensor).location for tensor in stored)
    return tuple(name for name in names if (path.parent / name).is_file() and ".." not in Path(name).parts)


def _parsed(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        raise ModelError("expected an ONNX file, got a folder; name the file in it")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError("expected an ONNX file, got nothing of that name; check the path") from error
    except OSError as error:
        raise ModelError(f"expected a readable file, got {error.strerror}; check its permissions") from error
    if not content:
        raise ModelError("expected an ONNX file, got an empty one; export or download it again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            "expected an ONNX file, got something else or a truncated one; export or download it again"
        ) from error
    if not model.HasField("graph") or not model.graph.node or not model.graph.output:
        raise ModelError("expected a graph with nodes and outputs, got an empty one; export or download it again")
    return model


def refuse_unusable(model: onnx.ModelProto) -> None:
    """Raise ModelError for what is no valid model, is quantized already, or has weights that are not finite."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"expected a valid ONNX model, got: {onnx_graph.first_line(error)}; export it again"
        ) from error
    quantized = next((n for n in model.graph.node if n.op_type in _QUANTIZED or n.op_type.startswith("QLinear")), None)
    if quantized is not None:
        raise ModelError(
            f"expected a float network, got one that is already quantized ({quantized.op_type} {quantized.name!r}); "
            "give the float model it was made from"
        )
    constants = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")]
    # A mask, or the padding before a maximum, may well be infinite: no weight may.
    weights = {name for n in model.graph.node if n.op_type in _WITH_WEIGHTS for name in n.input[1:]}
    for tensor in (*model.graph.initializer, *constants):
        _refuse_bad_values(tensor, tensor.name in weights)


def _refuse_bad_values(tensor: onnx.TensorProto, is_weight: bool) -> None:
    if is_weight and not all(tensor.dims):
        shape = "x".join(map(str, tensor.dims))
        raise ModelError(f"expected weights with values, got {tensor.name!r} of {shape}; check the export")
    if tensor.data_type not in _FLOATS:
        return
    values = numpy_helper.to_array(tensor).astype(np.float64)
    if not np.isfinite(values).all() if is_weight else np.isnan(values).any():
        raise ModelError(
            f"expected finite weights, got NaN or infinity in {tensor.name!r}; check the training run or the export"
        )


def _current_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inline local functions, drop initializers from the inputs, and convert an old opset."""
    model = inliner.inline_local_functions(model) if model.functions else onnx_graph.copy(model)
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    if opset > NEWEST_OPSET:
        raise ModelError(
            f"expected opset {NEWEST_OPSET} at most, got {opset}; export with opset {CONVERTED_OPSET} to {NEWEST_OPSET}"
        )
    if opset < OLDEST_OPSET:
        try:
            model = version_converter.convert_version(model, CONVERTED_OPSET)
        except (version_converter.ConvertError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"expected a model that converts from opset {opset} to {CONVERTED_OPSET}, got: "
                f"{onnx_graph.first_line(error)}; export it with opset {CONVERTED_OPSET}"
            ) from error
    constants = onnx_graph.initializers(model)
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True))
    return model


def _static(model: onnx.ModelProto, size: tuple[int, int] | None) -> onnx.ModelProto:
    """Fix the input to one image of the recipe's size; the outputs' shapes follow by inference."""
    new = onnx_graph.copy(model)
    if len(new.graph.input) != 1:
        names = ", ".join(repr(value.name) for value in new.graph.input) or "none"
        raise ModelError(f"expected one input, an image, got {names}; export the network without the others")
    value = new.graph.input[0]
    kind = value.type.tensor_type
    dims = kind.shape.dim
    shape = [d.dim_value if d.dim_value > 0 else None for d in dims]
    shown = "x".join(str(d.dim_value if d.dim_value > 0 else d.dim_param or "?") for d in dims) or "a shapeless value"
    if kind.elem_type != onnx.TensorProto.FLOAT or len(dims) != 4 or shape[1] != 3 or shape[0] not in {1, None}:
        raise ModelError(
            f"input {value.name!r}: expected float32 1x3xHxW, got {_type_name(kind.elem_type)} {shown}; export the "
            "network in float32, channels first, for one RGB or BGR image or a dynamic batch"
        )
    wanted = size or (shape[2], shape[3])
    if None in wanted:
        raise ModelError(
            f"input {value.name!r}: expected a static height and width, got {shown}; give the input's size"
        )
    if any(have not in {want, None} for have, want in zip(shape[2:], wanted, strict=True)):
        raise ModelError(
            f"input {value.name!r}: expected 1x3x{wanted[0]}x{wanted[1]} as preprocess.size says, got {shown}; "
            f"set preprocess.size to the network's, or export it at that size"
        )
    for dim, number in zip(dims, (1, 3, *wanted), strict=True):
        dim.dim_value = int(number or 0)
    del new.graph.value_info[:]
    _forget_symbols_(new)
    return new


def _forget_symbols_(model: onnx.ModelProto) -> None:
    """Let inference fill in the outputs' symbolic dimensions; the ranks stay, ONNX wants them."""
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()


def with_measured_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """State the shapes around weighted operators that inference could not tell, from one run on zeros.

    Exporters compute shapes at run time (Shape, Gather, Concat into a Reshape); without them a layer has no known MACs.
    """
    known = onnx_graph.shapes(model)
    produced = {output for node in model.graph.node for output in node.output}
    weighted = [node for node in model.graph.node if onnx_graph.is_weighted(node)]
    unknown = [t for n in weighted for t in (*n.input[:2], n.output[0]) if t in produced and t not in known]
    if not unknown:
        return model
    value = model.graph.input[0]
    try:
        session = open_model(onnx_graph.with_outputs(model, unknown), optimize=True)
        found = session.run(unknown, {value.name: np.zeros(known[value.name], np.float32)})
    except Exception:  # ONNX Runtime lacks an operator: the shapes stay unknown, and whoever runs the model will say so
        return model
    new = onnx_graph.copy(model)
    stale = [stated for stated in new.graph.value_info if stated.name in unknown]
    for stated in stale:
        new.graph.value_info.remove(stated)
    for name, array in dict(zip(unknown, found, strict=True)).items():
        new.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))
    return onnx_graph.infer_shapes(new)


def _type_name(kind: int) -> str:
    return str(onnx.TensorProto.DataType.Name(kind)).lower()
