"""What groups lose by gradients: one pass forward and back an image for all groups and precisions.

A group loses the sum of g_i² d_i² over its weights and the values that its layers read: g_i² the Fisher matrix's
diagonal, d_i what each is off by. Each number's error counts for itself: errors that belong together, as the shift of a
whole channel, count for less than they do.

Source: FIT, arXiv:2210.08502, there with the mean squared noise of a tensor, here with the errors themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.search.formats import float_type
from avcompress.search.sensitivity.derivatives import Block, Derivatives, Slope, Sums
from avcompress.spec import Array, Artifact, Precision, QuantParams
from engines.onnx_graph import initializers
from engines.qdq import dequantize_array, quantize_array


@dataclass(frozen=True, eq=False)
class FisherError(Derivatives):
    """Squared gradients times squared errors, of weights and of what layers read."""

    def __call__(self, block: Block) -> Sums:
        """Summed over some images."""
        sums = self.zeros()
        for number in block:
            weights, inputs = self.slopes(number)
            for name, squares in weights.items():
                self._add_weight_(sums, name, squares)
            for slope in inputs:
                self._add_input_(sums, slope)
        return sums

    def _add_weight_(self, sums: Sums, name: str, squares: Array) -> None:
        for group, precision in self.cases:
            if name in self.constants[group]:
                errors = self.squared_errors[precision].get(name)
                sums[group][precision] += 0.0 if errors is None else float((squares * errors).sum())

    def _add_input_(self, sums: Sums, slope: Slope) -> None:
        group = self.formats.layout.group_of[slope.layer]
        for precision, error in self._errors(slope.layer, slope.value):
            if precision in sums[group]:
                sums[group][precision] += float((slope.squares * np.square(error, dtype=np.float64)).sum())

    def _errors(self, layer: str, value: Array) -> Iterator[tuple[Precision, Array]]:
        """What a layer's input is off by, in each precision that rounds it."""
        for half in self.formats.halves:
            yield half, value.astype(float_type(half)).astype(np.float32) - value
        for precision, grids in self._grids.items():
            if layer in grids:
                params, middle = grids[layer]
                centred = value - middle
                yield precision, dequantize_array(quantize_array(centred, params), params) - centred

    @cached_property
    def _grids(self) -> Mapping[Precision, Mapping[str, tuple[QuantParams, Array]]]:
        return {precision: _input_grids(artifact) for precision, artifact in self.formats.quantized.items()}


def _input_grids(artifact: Artifact) -> dict[str, tuple[QuantParams, Array]]:
    """By layer: how what it reads is quantized, and what is subtracted from that before."""
    constants = initializers(artifact.reference)
    producer = {name: node for node in artifact.reference.graph.node for name in node.output}
    quantized = {layer.name for layer in artifact.layers if layer.precision in {"int8", "fp8"}}
    found = {}
    for node in artifact.reference.graph.node:
        data = next((name for name in node.input[:2] if name not in constants), "")
        if node.name in quantized and data in artifact.qparams:
            found[node.name] = (artifact.qparams[data], _middle(producer.get(data), constants))
    return found


def _middle(node: onnx.NodeProto | None, constants: Mapping[str, onnx.TensorProto]) -> Array:
    """What `activations: shifted` subtracts from a tensor; 0 without it."""
    if node is None or node.op_type != "Sub" or node.input[1] not in constants:
        return np.zeros((), np.float32)
    return numpy_helper.to_array(constants[node.input[1]])
