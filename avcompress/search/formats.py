"""One network in every precision that is asked for, whole, and with a single group in one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.quant.analysis.restore import quantized_layers, restored
from avcompress.quant.observe import network_digest
from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.patterns import Links, fused_input, link
from avcompress.quant.placement.policy import EVERYTHING
from avcompress.quant.plan import prepare
from avcompress.quant.stages.ptq import quantize
from avcompress.quant.stages.weight_only import quantize_weights
from avcompress.recipe import Ptq, WeightOnly
from avcompress.search.assignment import HALVES, Assignment, kinds_of, layers_in
from avcompress.search.groups import Group, Layout, layout_of
from avcompress.spec import Array, Artifact, Batch, Precision
from calibration.statistics import Statistics
from engines.onnx_graph import initializers
from engines.precision import FloatFormat, cast_network
from engines.qdq import without_qdq

_FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True, eq=False)
class Formats:
    """A network, float and with all that can be quantized in each of the quantized precisions.

    Attributes:
        model: float, as `prepare` returns it.
        layout: its groups.
        quantized: by precision, after the stages that quantize and repair it.
        halves: the 16-bit float formats that are asked for.
    """

    model: onnx.ModelProto
    layout: Layout
    quantized: Mapping[Precision, Artifact]
    halves: tuple[FloatFormat, ...] = ()

    @property
    def choices(self) -> dict[str, tuple[Precision, ...]]:
        """What each group may take, by its name: FP32, and whatever all its layers can be computed in."""
        able = {
            precision: {layer.name for layer in artifact.layers if layer.precision == precision}
            for precision, artifact in self.quantized.items()
        }
        return {
            group.name: ("fp32", *self.halves, *(p for p, layers in able.items() if layers.issuperset(group.layers)))
            for group in self.layout.groups
        }

    def digest(self, precision: Precision) -> str:
        """Stands for all that decides what a group in this precision computes, beside which group it is."""
        artifact = self.quantized.get(precision)
        return network_digest(self.model) if artifact is None else self._digests[precision]

    @cached_property
    def _digests(self) -> Mapping[Precision, str]:
        return {
            precision: f"{network_digest(artifact.reference)}-{network_digest(artifact.model)}"
            for precision, artifact in self.quantized.items()
        }

    def alone(self, group: Group, precision: Precision) -> onnx.ModelProto:
        """The float network with one group in a precision that it may take."""
        artifact = self.quantized.get(precision)
        if artifact is not None:
            own = {*group.layers, *self._additions(precision, group)}
            others = [name for name in quantized_layers(artifact.model, artifact.reference) if name not in own]
            return restored(artifact.model, artifact.reference, others)
        if precision == "fp32":
            return self.model
        kept = {node.name: "another group" for node in self.model.graph.node if node.name not in group.layers}
        network, _ = cast_network(self.model, cast(FloatFormat, precision), kept)
        return network

    def _additions(self, precision: Precision, group: Group) -> set[str]:
        """The additions that are computed along with a layer of the group, of which the other operand is quantized."""
        links = self._links[precision]
        return {op.name for op in links.view.ops if fused_input(op, links, frozenset(group.layers)) is not None}

    @cached_property
    def _links(self) -> Mapping[Precision, Links]:
        return {precision: link(graph_view(artifact.reference)) for precision, artifact in self.quantized.items()}

    def assigned(self, assignment: Assignment) -> onnx.ModelProto:
        """The network with each group in its precision, each one that it may take.

        Raises RecipeError for several quantized or several 16-bit precisions: no recipe says so.
        """
        quantized, half = kinds_of(assignment)
        model = self.model
        if quantized is not None:
            artifact = self.quantized[quantized]
            own = set(layers_in(self.layout, assignment, quantized))
            links = self._links[quantized]
            own |= {op.name for op in links.view.ops if fused_input(op, links, frozenset(own)) is not None}
            names = quantized_layers(artifact.model, artifact.reference)
            model = restored(artifact.model, artifact.reference, [name for name in names if name not in own])
        if half is not None:
            kept = dict.fromkeys(layers_in(self.layout, assignment, "fp32"), "as chosen")
            model, _ = cast_network(model, half, kept)
        return model

    def weights(self, precision: Precision) -> dict[str, Array]:
        """The constants of the float network as a precision leaves them, float32, by name."""
        artifact = self.quantized.get(precision)
        if artifact is not None:
            return {name: numpy_helper.to_array(t) for name, t in initializers(without_qdq(artifact.model)).items()}
        floats = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer if t.data_type == _FLOAT}
        kind = float_type(precision)
        with np.errstate(over="ignore", under="ignore"):  # such a layer stays FP32
            return {name: values.astype(kind).astype(np.float32) for name, values in floats.items()}


def float_type(precision: Precision) -> type:
    """NumPy's type of a float precision."""
    import ml_dtypes

    types: Mapping[Precision, type] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
    return types[precision]


def formats_of(
    artifact: Artifact,
    precisions: Iterable[Precision],
    settings: Ptq,
    batches: Iterable[Batch],
    statistics: Statistics | None = None,
) -> Formats:
    """Quantize a float network in each of the precisions that ask for it, as much of it as can be.

    Args:
        artifact: a float onnx.ModelProto.
        precisions: that are asked for; FP32 need not be named.
        settings: of `ptq`; its format and what it leaves float are chosen here.
        batches: calibration images; not gone through where there are statistics.
        statistics: by `quant.stages.ptq.calibrate` with the settings of `everything`.

    Raises RecipeError, DataError or ModelError.
    """
    wanted = tuple(dict.fromkeys(precisions))
    made: dict[Precision, Artifact] = {}
    for precision in wanted:
        match precision:
            case "int8" | "fp8":
                made[precision] = quantize(artifact, everything(settings, precision), batches, statistics)
            case "int8 weights":
                made[precision] = quantize_weights(artifact, WeightOnly(kind="weight_only", keep_float=EVERYTHING))
    model = prepare(artifact.model)
    halves: tuple[FloatFormat, ...] = tuple(each for each in HALVES if each in wanted)
    return Formats(model, layout_of(model), made, halves)


def everything(settings: Ptq, number_format: Literal["int8", "fp8"] = "int8") -> Ptq:
    """The same `ptq` for every layer that can be quantized; FP8 is even about zero."""
    activations = "symmetric" if number_format == "fp8" else settings.activations
    return settings.model_copy(
        update={
            "format": number_format,
            "activations": activations,
            "keep_float": EVERYTHING,
            "statistics": None,
            "mixed": None,
        }
    )
