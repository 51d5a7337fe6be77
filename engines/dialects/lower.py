"""An older opset for parsers that read no newer one; ONNX's own converter has no way down for most operators.

What an operator gained since then is taken out where it says nothing new, or written as the older form had it; what
cannot be is refused with the node's name.

Source: ONNX Operators.md and Changelog.md, opsets 18 to 23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from avcompress.spec import Array, ModelError
from engines.onnx_graph import (
    attribute,
    check,
    copy,
    drop_unused_initializers,
    fresh,
    infer_shapes,
    initializers,
    is_standard,
    shapes,
    subgraphs,
    use_counts,
)
from engines.opset import opset_of

_REDUCTIONS = frozenset(
    {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"}
    | {"ReduceSumSquare"}
)
_NEUTRAL: Mapping[str, object] = dict.fromkeys(
    ("allowzero", "antialias", "block_size", "ceil_mode", "noop_with_empty_axes", "output_dtype", "precision"), 0
) | {"keep_aspect_ratio_policy": b"stretch", "saturate": 1}
"""Attributes that say nothing at these values."""


def lowered(model: onnx.ModelProto, newest: int) -> onnx.ModelProto:
    """The same network at this opset, where it has a newer one; operators that the opset has not must be gone.

    Raises ModelError naming the node that needs the newer opset.
    """
    current = opset_of(model)
    if current <= newest:
        return model
    new = copy(model)
    draft = _Draft(new, newest, {t.name: numpy_helper.to_array(t) for t in new.graph.initializer}, shapes(new))
    for node in new.graph.node:
        if is_standard(node):
            _lower_(draft, node)
    for entry in new.opset_import:
        if entry.domain in {"", "ai.onnx"}:
            entry.version = newest
    return check(infer_shapes(drop_unused_initializers(new)))


@dataclass(frozen=True)
class _Draft:
    """The model that is being changed, and what is known of it."""

    model: onnx.ModelProto
    newest: int
    constants: Mapping[str, Array]
    shapes: Mapping[str, tuple[int, ...]]

    def constant(self, value: Array, name: str) -> str:
        """Add an initializer under the name, or the next free one."""
        nodes = self.model.graph.node
        taken = {*initializers(self.model), *use_counts(self.model), *(o for n in nodes for o in n.output)}
        free = fresh(name, taken)
        self.model.graph.initializer.append(numpy_helper.from_array(value, free))
        return free

    def refuse(self, node: onnx.NodeProto, what: str) -> ModelError:
        """The error for a node that the older opset cannot say."""
        return ModelError(
            f"node {node.name!r} ({node.op_type}): expected what opset {self.newest} has, got {what}; export the "
            f"network with opset {self.newest}"
        )


def _lower_(draft: _Draft, node: onnx.NodeProto) -> None:
    if any(True for _ in subgraphs(node)):
        raise draft.refuse(node, f"a subgraph at opset {opset_of(draft.model)}")
    if not onnx.defs.has(node.op_type, max_inclusive_version=draft.newest):
        raise draft.refuse(node, "an operator that came later")
    old = onnx.defs.get_schema(node.op_type, draft.newest)
    if old.since_version == onnx.defs.get_schema(node.op_type, opset_of(draft.model)).since_version:
        return
    special = next((rewrite for names, rewrite in _REWRITES if node.op_type in names), None)
    if special is not None:
        special(draft, node)
    _drop_neutral_(draft, node, old)
    if len(node.input) > len(old.inputs) and old.inputs[-1].option != onnx.defs.OpSchema.FormalParameterOption.Variadic:
        raise draft.refuse(node, f"{len(node.input)} inputs")


def _drop_neutral_(draft: _Draft, node: onnx.NodeProto, old: onnx.defs.OpSchema) -> None:
    for attr in [each for each in node.attribute if each.name not in old.attributes]:
        value = helper.get_attribute_value(attr)
        ones = attr.name == "dilations" and set(value) == {1}
        if not ones and value != _NEUTRAL.get(attr.name, ...):
            shown = value.decode() if isinstance(value, bytes) else value
            raise draft.refuse(node, f"{attr.name} = {shown}")
        node.attribute.remove(attr)


def _axes_to_attribute_(draft: _Draft, node: onnx.NodeProto) -> None:
    """Reductions had their axes as an attribute until opset 17."""
    if draft.newest >= 18 or len(node.input) < 2:
        return
    name = node.input[1]
    del node.input[1:]
    if not name:
        return
    if name not in draft.constants:
        raise draft.refuse(node, "axes that are computed")
    axes = draft.constants[name].reshape(-1).tolist()
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        raise draft.refuse(node, "a reduction over no axis")
    if axes:
        node.attribute.append(helper.make_attribute("axes", axes))


def _split_sizes_(draft: _Draft, node: onnx.NodeProto) -> None:
    """Split in equal parts needs no number of outputs; in unequal ones, their sizes."""
    parts = int(str(attribute(node, "num_outputs", 0)))
    if not parts:
        return
    for attr in [each for each in node.attribute if each.name == "num_outputs"]:
        node.attribute.remove(attr)
    shape = draft.shapes.get(node.input[0])
    if shape is None:
        raise draft.refuse(node, "num_outputs for a tensor of unknown shape")
    size = shape[int(str(attribute(node, "axis", 0)))]
    if size % parts:
        step = -(-size // parts)
        sizes = [min(step, size - step * i) for i in range(parts)]
        node.input.append(draft.constant(np.array(sizes, np.int64), f"{node.name}_sizes"))


def _pads_of_all_axes_(draft: _Draft, node: onnx.NodeProto) -> None:
    """Pad named the pads of every axis until opset 17, and had no wrap mode until 18."""
    if attribute(node, "mode", b"constant") == b"wrap" and draft.newest < 19:
        raise draft.refuse(node, "mode = wrap")
    if draft.newest >= 18 or len(node.input) < 4:
        return
    axes_name = node.input[3]
    del node.input[3:]
    if not axes_name:
        return
    shape = draft.shapes.get(node.input[0])
    if axes_name not in draft.constants or node.input[1] not in draft.constants or shape is None:
        raise draft.refuse(node, "axes or pads that are computed")
    axes, pads = (draft.constants[name].reshape(-1).tolist() for name in (axes_name, node.input[1]))
    whole = np.zeros((2, len(shape)), np.int64)
    for position, axis in enumerate(axes):
        whole[:, axis] = pads[position], pads[len(axes) + position]
    node.input[1] = draft.constant(whole.reshape(-1), f"{node.name}_pads")


def _resize_all_axes_(draft: _Draft, node: onnx.NodeProto) -> None:
    """Resize named the scales or sizes of every axis until opset 17, and had other coordinate modes."""
    if attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel_symmetric":
        raise draft.refuse(node, "coordinate_transformation_mode = half_pixel_symmetric")
    axes = attribute(node, "axes", None)
    if draft.newest >= 18 or not isinstance(axes, list | tuple):
        return
    for attr in [each for each in node.attribute if each.name == "axes"]:
        node.attribute.remove(attr)
    shape = draft.shapes.get(node.input[0])
    sized = len(node.input) > 3 and node.input[3] != ""
    index = 3 if sized else 2
    if shape is None or node.input[index] not in draft.constants:
        raise draft.refuse(node, "scales or sizes that are computed, of some axes")
    given = draft.constants[node.input[index]]
    whole = np.array(shape, np.int64) if sized else np.ones(len(shape), np.float32)
    whole[list(axes)] = given.reshape(-1)
    node.input[index] = draft.constant(whole, f"{node.name}_{'sizes' if sized else 'scales'}")


def _grid_modes_(draft: _Draft, node: onnx.NodeProto) -> None:
    """GridSample called its modes otherwise until opset 19, and had four axes only."""
    if draft.newest >= 20:
        return
    if len(draft.shapes.get(node.input[0], (0,) * 4)) != 4:
        raise draft.refuse(node, "a grid of other than four axes")
    names = {b"linear": b"bilinear", b"cubic": b"bicubic"}
    stated = next((each for each in node.attribute if each.name == "mode"), None)
    if stated is not None:
        stated.s = names.get(stated.s, stated.s)


def _no_extremes_(draft: _Draft, node: onnx.NodeProto) -> None:
    """Scattering had no max and min until opset 17."""
    reduction = attribute(node, "reduction", b"none")
    if draft.newest < 18 and reduction in {b"max", b"min"}:
        raise draft.refuse(node, f"reduction = {reduction.decode() if isinstance(reduction, bytes) else reduction}")


def _zero_point_for_type_(draft: _Draft, node: onnx.NodeProto) -> None:
    """QuantizeLinear said its type by the zero point alone until opset 20."""
    kind = int(str(attribute(node, "output_dtype", 0)))
    if draft.newest >= 21 or not kind:
        return
    if node.op_type == "QuantizeLinear" and (len(node.input) < 3 or not node.input[2]):
        zero = np.zeros(draft.constants[node.input[1]].shape, helper.tensor_dtype_to_np_dtype(kind))
        del node.input[2:]
        node.input.append(draft.constant(zero, f"{node.name}_zero_point"))
    for attr in [each for each in node.attribute if each.name == "output_dtype"]:
        node.attribute.remove(attr)


_REWRITES: tuple[tuple[frozenset[str], Callable[[_Draft, onnx.NodeProto], None]], ...] = (
    (_REDUCTIONS, _axes_to_attribute_),
    (frozenset({"Split"}), _split_sizes_),
    (frozenset({"Pad"}), _pads_of_all_axes_),
    (frozenset({"Resize"}), _resize_all_axes_),
    (frozenset({"GridSample"}), _grid_modes_),
    (frozenset({"ScatterElements", "ScatterND"}), _no_extremes_),
    (frozenset({"QuantizeLinear", "DequantizeLinear"}), _zero_point_for_type_),
)
