"""Post-training quantization of an ONNX network to static Q/DQ: INT8 or FP8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import onnx
from onnx import numpy_helper

from avcompress.quant.channels.shift import choose_shifts, give_back_rounding, shift
from avcompress.quant.observe import network_digest, observe
from avcompress.quant.params import activation_params, weight_params
from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import EVERYTHING, QUANTIZED, Placement, place
from avcompress.quant.plan import as_precision, plan_line, prepare
from avcompress.quant.ties import settle_ties
from avcompress.recipe import Ptq
from avcompress.spec import WEIGHTED, Artifact, Batch, DataError, QuantParams, RecipeError
from calibration.batches import Batches
from calibration.statistics import Statistics, TensorStatistics, preprocess_digest
from engines.onnx_graph import initializers
from engines.qdq import insert_qdq

_JOINS = WEIGHTED | {"Add", "Concat"}


def calibrate(artifact: Artifact, settings: Ptq, batches: Iterable[Batch]) -> Statistics:
    """Run the images through a float onnx.ModelProto, and keep what `quantize` needs of them.

    Of the settings only those of `calibration_settings` count.
    Raises RecipeError, DataError or ModelError.
    """
    model = prepare(artifact.model)
    if settings.mixed is not None:  # whatever a choice may quantize
        return observe(model, candidates(model), batches)
    # Those of both formats: which one it is may change without an image.
    formats = (settings.model_copy(update={"format": name}) for name in ("int8", "fp8"))
    tensors = (name for each in formats for name in _tensors(_placement(model, each)))
    return observe(model, tuple(dict.fromkeys(tensors)), batches)


def calibration_settings(settings: Ptq) -> dict[str, Any]:
    """The settings that `calibrate` depends on; a change of others needs no image again."""
    return {**settings.model_dump(include={"keep_float", "rules"}), "chosen": settings.mixed is not None}


def quantize(
    artifact: Artifact, settings: Ptq, batches: Iterable[Batch], statistics: Statistics | None = None
) -> Artifact:
    """Quantize a float onnx.ModelProto: fold batch norms, choose sites, calibrate, insert Q/DQ.

    Args:
        artifact: holds the network.
        settings: of the stage.
        batches: the calibration images, as the network takes them; not gone through where there are statistics.
        statistics: of this network, by `calibrate` or `avcompress calibrate`.

    Raises RecipeError, also where layers are still to be chosen (`mixed`), DataError or ModelError; equal inputs give
    a model of equal bytes.
    """
    if settings.mixed is not None:
        raise RecipeError("ptq.mixed: expected layers that were chosen, got a choice; `avcompress run` makes it")
    model = prepare(artifact.model)
    placement = _placement(model, settings)
    if statistics is None:
        statistics = observe(model, _tensors(placement), batches)
    else:
        _refuse_foreign(statistics, model, _tensors(placement), batches)
    ready = _with_ranges(model, placement, statistics.tensors, settings)
    edges = [edge for site in (*placement.activations, *placement.weights) for edge in site.edges]
    qparams = {**ready.qparams, **_weight_qparams(ready.model, placement, settings)}
    layers = as_precision(placement.layers, settings.format, QUANTIZED)
    quantized = insert_qdq(ready.model, edges, qparams)
    return replace(
        artifact,
        model=give_back_rounding(quantized, ready.model, ready.middles, qparams) if ready.middles else quantized,
        reference=ready.model,
        qparams=qparams,
        layers=layers,
        log=(*artifact.log, plan_line("ptq", layers), *(f"ptq: {note}" for note in ready.notes)),
    )


class _Ready(NamedTuple):
    """A float network, the parameters of its quantized activations, and what there is to say of them.

    `middles`: what was subtracted from a node's input, by the node's name.
    """

    model: onnx.ModelProto
    qparams: Mapping[str, QuantParams]
    middles: Mapping[str, float]
    notes: tuple[str, ...]


def _with_ranges(
    model: onnx.ModelProto, placement: Placement, tensors: Mapping[str, TensorStatistics], settings: Ptq
) -> _Ready:
    """Choose every activation's range; shifted tensors are subtracted from here, and share a scale with no other."""
    known = {name: tensors[name] for name in _tensors(placement)}
    shifts = choose_shifts(model, placement.activations, known, settings) if settings.activations == "shifted" else {}
    settled = settle_ties([[name for name in tie if name not in shifts] for tie in placement.ties], known, settings)
    new, names = shift(model, placement.activations, shifts) if shifts else (model, {})
    ranges = {**settled.ranges, **{name: shifted.range for name, shifted in shifts.items()}}
    qparams = {names.get(name, name): activation_params(values, settings) for name, values in ranges.items()}
    middles = {
        node: shifts[site.tensor].middle
        for site in placement.activations
        for node, _ in site.edges
        if site.tensor in shifts
    }
    counted = f"{len(shifts)} of {len(ranges)} activations are shifted by the middle of their range"
    return _Ready(new, qparams, middles, (*([counted] if settings.activations == "shifted" else []), *settled.notes))


def candidates(model: onnx.ModelProto) -> tuple[str, ...]:
    """The tensors of a prepared network that some `ptq` stage may want to quantize, whatever its settings."""
    view = graph_view(model)
    rules = get_args(Ptq.model_fields["rules"].annotation)
    wanted = {site.tensor for each in rules for site in place(view, EVERYTHING, each).activations}
    # A site may move to the other input of an addition or a concatenation when layers are kept float.
    floats = {
        value.name for value in model.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    wanted |= {name for op in view.ops if op.kind in _JOINS for name in op.inputs if name in floats}
    order = [model.graph.input[0].name, *(name for op in view.ops for name in op.outputs)]
    return tuple(name for name in order if name in wanted)


def _placement(model: onnx.ModelProto, settings: Ptq) -> Placement:
    return place(graph_view(model), settings.keep_float, settings.rules, settings.format)


def _tensors(placement: Placement) -> tuple[str, ...]:
    return tuple(site.tensor for site in placement.activations)


def _refuse_foreign(
    found: Statistics, model: onnx.ModelProto, tensors: tuple[str, ...], batches: Iterable[Batch]
) -> None:
    """Raise DataError for statistics of another network, of another preprocessing, or of other tensors."""
    if found.network != network_digest(model):
        raise DataError(
            f"ptq.statistics: expected those of this network, {network_digest(model)}, got those of {found.network}; "
            "collect them again with this recipe: avcompress calibrate"
        )
    if isinstance(batches, Batches) and found.preprocess not in {"", preprocess_digest(batches.settings)}:
        raise DataError(
            "ptq.statistics: expected those of images preprocessed as the recipe says, got another preprocessing; "
            "collect them again with this recipe: avcompress calibrate"
        )
    missing = [name for name in tensors if name not in found.tensors]
    if missing:
        raise DataError(
            f"ptq.statistics: expected those of {len(tensors)} tensors, {len(missing)} are missing, {missing[0]!r} "
            "the first; collect them again with this recipe: avcompress calibrate"
        )


def _weight_qparams(model: onnx.ModelProto, placement: Placement, settings: Ptq) -> Mapping[str, QuantParams]:
    constants = initializers(model)
    return {
        site.tensor: weight_params(numpy_helper.to_array(constants[site.tensor]), site.axis or 0, settings)
        for site in placement.weights
    }
