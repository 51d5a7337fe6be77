"""The opset of a network, and a newer one where a format needs it."""

from __future__ import annotations

import onnx
from onnx import helper, version_converter

from avcompress.spec import ModelError
from engines.onnx_graph import check, copy, first_line, fold_constants, infer_shapes, name_nodes


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model uses; 0 when it states none."""
    return next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)


def at_opset(model: onnx.ModelProto, version: int, why: str) -> onnx.ModelProto:
    """The model at this opset at least: converted where it is older, and not changed where it is not.

    Args:
        model: with static shapes; nodes and tensors keep their names.
        version: of ONNX's own operators.
        why: what needs it, for the error.

    Raises ModelError when it does not convert.
    """
    current = opset_of(model)
    if current >= version:
        return model
    others = [entry for entry in model.opset_import if entry.domain not in {"", "ai.onnx"}]
    try:
        new = version_converter.convert_version(copy(model), version)
    except (version_converter.ConvertError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"ONNX graph: expected a model that converts from opset {current} to {version}, which {why} needs, got: "
            f"{first_line(error)}; export it with opset {version}"
        ) from error
    known = {entry.domain for entry in new.opset_import}
    new.opset_import.extend(entry for entry in others if entry.domain not in known)
    new.ir_version = max(model.ir_version, helper.find_min_ir_version_for(new.opset_import, ignore_unknown=True))
    # What was an attribute may be an input now, made by a node that has no name.
    return check(infer_shapes(name_nodes(fold_constants(new))))
