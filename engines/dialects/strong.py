"""The strong dialect: TensorRT 10, 11 and RTX, strongly typed: what the graph says is what is built, without flags."""

from __future__ import annotations

import onnx

from avcompress.spec import ModelError
from engines.dialects.decompose import decomposed
from engines.dialects.dialect import DialectSettings, Expressed
from engines.dialects.float_range import outside_fp16, seen_ranges
from engines.dialects.lower import lowered
from engines.dialects.notes import grouped
from engines.dialects.planned import planned_precisions
from engines.dialects.prepare import prepared, refuse_unknown, refuse_untakeable
from engines.dialects.weights import with_stored_weights
from engines.onnx_graph import is_standard
from engines.opset import opset_of
from engines.precision import cast_network


def express_strong(model: onnx.ModelProto, settings: DialectSettings) -> Expressed:
    """Cast what is float as asked, where the values fit; raises ModelError for what TensorRT would not take.

    Inputs and outputs keep their types. FP32 stay, beside `keep_float`: tensors that calibration saw near the end of
    FP16, and what `cast_network` leaves: constants and scales that FP16 cannot hold, and what follows the last layers.
    """
    new, notes = prepared(model)
    refuse_unknown(new, settings.keep_float)
    refuse_untakeable(new, settings.target)
    new, parts, lowering = _for_parser(with_stored_weights(new), settings.newest_opset)
    keep, kept = dict(settings.keep_float), dict[str, str]()
    keep |= {part: keep[whole] for part, whole in parts.items() if whole in keep}
    if settings.float_type != "fp32":
        if settings.float_type == "fp16":
            keep = outside_fp16(new, seen_ranges(new, settings.ranges)) | keep
        there = {node.name for node in new.graph.node}
        new, kept = cast_network(new, settings.float_type, {name: why for name, why in keep.items() if name in there})
    if opset_of(new) > settings.newest_opset:
        raise ModelError(
            f"ONNX graph: expected opset {settings.newest_opset} at most, {settings.float_type} with Q/DQ needs opset "
            f"{opset_of(new)}; use fp16, fp32, or a newer target"
        )
    return Expressed(
        model=new,
        dialect="strong",
        precisions=planned_precisions(new),
        notes=(*notes, *lowering, *grouped("stays FP32", kept)),
    )


def _for_parser(model: onnx.ModelProto, newest: int) -> tuple[onnx.ModelProto, dict[str, str], tuple[str, ...]]:
    """The network at the newest opset that the parser reads, where it has a newer one; its new nodes, and a note."""
    current = opset_of(model)
    if current <= newest:
        return model, {}, ()
    lacking = {node.op_type for node in model.graph.node if not _has(node, newest)}
    new, parts = decomposed(model, lacking)
    return lowered(new, newest), parts, (f"opset {current} is written as opset {newest}",)


def _has(node: onnx.NodeProto, opset: int) -> bool:
    if not is_standard(node):
        return True
    known = onnx.defs.has(node.op_type, max_inclusive_version=opset)
    return known and not onnx.defs.get_schema(node.op_type, opset).deprecated
