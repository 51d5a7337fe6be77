"""A quantized network of any tool in the one form that the dialects are written from."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx
from onnx import inliner

from avcompress.spec import ModelError
from engines.capabilities import Target, capabilities
from engines.lint.check import lint
from engines.lint.edit import Draft, close_draft, open_draft
from engines.lint.finding import Finding, Repair, Rule
from engines.lint.read import read_model
from engines.lint.repair_params import store_biases_in_float_, use_standard_domain_
from engines.onnx_graph import check, copy, fold_constants, infer_shapes, initializers, name_nodes
from engines.onnx_weights import load_weights_, stored_tensors
from engines.openvino_dialect import in_fp32 as widened

# Neither changes a number: ONNX Runtime's own domain, biases in int32.
_LOSSLESS: tuple[Callable[[Draft], Iterator[Repair]], ...] = (use_standard_domain_, store_biases_in_float_)
# What TensorRT would build to something else, without a word. The opset is the dialects' own business.
_SILENT: frozenset[Rule] = frozenset(
    {"uint8", "no_zero_point", "per_channel_activation", "scale_value", "double", "not_finite"}
)
_SHOWN = 3


def read_quantized(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with the weights that lie beside it; raises ModelError in one line naming the file."""
    model = read_model(path)
    try:
        load_weights_(model, path.parent)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return model


def prepared(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The same network with unique node names, constants as initializers only, and float biases.

    Returns: the network, and what was done to it that a user should know.
    Raises ModelError for no valid ONNX, and weights that were left in another file.
    """
    outside = stored_tensors(model)
    if outside:
        raise ModelError(
            f"ONNX graph: expected its weights in memory, got {outside[0].name!r} in another file; read it with its "
            "weights"
        )
    new = inliner.inline_local_functions(model) if model.functions else copy(model)
    constants = initializers(new)
    inputs = [value for value in new.graph.input if value.name not in constants]
    del new.graph.input[:]
    new.graph.input.extend(inputs)
    new = name_nodes(fold_constants(new))
    notes = []
    for repair in _LOSSLESS:
        draft = open_draft(new, None)
        made = [*repair(draft)]
        new = close_draft(draft) if made else new
        notes += [f"{each.where}: {each.what}" for each in made]
    # Whoever reads a layer log must know a node by its name, also those that are new.
    return check(infer_shapes(name_nodes(new))), tuple(notes)


def refuse_unknown(model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Raise ModelError for a name that no node has, with the nearest that one has."""
    there = [node.name for node in model.graph.node]
    unknown = next((name for name in names if name not in set(there)), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, there, 1)
        hint = f"did you mean {near[0]!r}?" if near else "`avcompress inspect` lists them"
        raise ModelError(f"keep_float: expected names of the network's nodes, got {unknown!r}; {hint}")


def refuse_untakeable(model: onnx.ModelProto, target: Target) -> None:
    """Raise ModelError for what the target refuses, or silently computes otherwise: the node, why, and the remedy."""
    bad = [f for f in lint(model, target) if _is_fatal(f)]
    if not bad:
        return
    said = "; ".join(f"{f.where}: {f.what}: {f.why}; {f.fix}" for f in bad[:_SHOWN])
    more = f" (and {len(bad) - _SHOWN} more)" if len(bad) > _SHOWN else ""
    by_itself = ", or let `avcompress lint --fix` do it" if any(f.fixable for f in bad) else ""
    raise ModelError(
        f"ONNX graph: expected a network that {capabilities(target).title} takes, got {said}{more}{by_itself}"
    )


def _is_fatal(finding: Finding) -> bool:
    return finding.rule != "opset" and (finding.severity == "refused" or finding.rule in _SILENT)


_HALVES = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


def in_fp32(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The network with FP32 where it has FP16 or BF16, its inputs and outputs too, and a note if there was any.

    Constants keep their values. A weakly typed builder chooses FP16 itself, and takes FP32 scales only.
    """
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.value_info)}
    if not kinds & _HALVES:
        return model, ()
    new = widened(model)
    del new.graph.value_info[:]
    return check(infer_shapes(new)), (
        "FP16 and BF16 are FP32, inputs and outputs too: the builder chooses FP16 itself",
    )


def float_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """The FP32 tensors that nodes and inputs make, by the types that the model states."""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    return frozenset(v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
