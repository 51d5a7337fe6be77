"""Times from a machine's figures alone: a layer takes as long as its arithmetic or its memory, whichever is longer.

An estimate, and marked as one: no kernel reaches its peak, small layers wait for their launch, caches hold what this
reads from memory. It tells which layers gain from a precision at all, not what a network takes.

Source: Williams, Waterman, Patterson: Roofline: an insightful visual performance model, CACM 2009.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.view import Op
from avcompress.search.latency.source import Subject
from avcompress.search.latency.table import Conversion, PrecisionTable, network_structure
from avcompress.spec import WEIGHTED, Precision, RecipeError
from engines.onnx_graph import shapes
from engines.profile import Chosen, NumberType, Profile

_BYTES: Mapping[NumberType, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}
_WEIGHTS: Precision = "int8 weights"


@dataclass(frozen=True)
class Roofline:
    """An estimate for a target, which nobody has to have."""

    chosen: Chosen

    def table(self, subject: Subject) -> PrecisionTable:
        """Estimate every layer; raises RecipeError for a precision whose peak the target's profile does not tell."""
        profile = self.chosen.profile
        formats = {precision: _arithmetic(profile, precision) for precision in subject.precisions}
        sizes = {name: math.prod(shape) for name, shape in shapes(subject.model).items()}
        group_of = subject.layout.group_of
        layers = {
            op.name: {
                precision: _layer_ms(op, sizes, precision, formats[precision], profile)
                for precision in subject.choices[group_of[op.name]]
            }
            for op in graph_view(subject.model).ops
            if op.kind in WEIGHTED
        }
        return PrecisionTable(
            network=network_structure(subject.model),
            estimate=True,
            machine=self.chosen.name,
            layers_ms=layers,
            others_ms=0.0,  # what has no weight is taken as fused into what has
            conversions=tuple(
                Conversion(of=of, to=to, call_ms=0.0, million_ms=_convert_ms(formats[of], formats[to], profile))
                for of in formats
                for to in formats
                if of != to
            ),
        )


def _arithmetic(profile: Profile, precision: Precision) -> NumberType:
    """The format that a precision computes in, and keeps activations in."""
    if precision == _WEIGHTS:
        return "fp16" if "fp16" in profile.peak else "fp32"
    for number in profile.peak:
        if number == precision:
            return number
    raise RecipeError(
        f"{profile.name}: expected the peak of {precision}, the profile tells that of {', '.join(profile.peak)}; leave "
        f"{precision} out, or write a profile that has it"
    )


def _layer_ms(op: Op, sizes: Mapping[str, int], precision: Precision, number: NumberType, profile: Profile) -> float:
    """The longer of arithmetic and memory; both operands are read once, and what is given is written once."""
    weights = sizes.get(op.weight.tensor, 0) if op.weight else 0
    moved = sum(sizes.get(name, 0) for name in (op.inputs[0], op.outputs[0]))
    moved += 0 if op.weight else sizes.get(op.inputs[1], 0)
    size_bytes = moved * _BYTES[number] + weights * (1 if precision == _WEIGHTS else _BYTES[number])
    operations = 2 * op.macs * _padding(op, profile.channel_alignment.get(number, 1))
    return max(operations / (profile.peak[number] * 1e12), size_bytes / (profile.bandwidth_gb_s * 1e9)) * 1e3


def _padding(op: Op, alignment: int) -> float:
    """By how much channels grow that kernels fill up to a multiple."""
    if op.groups != 1 or 0 in op.channels:
        return 1.0
    return math.prod(-(-count // alignment) * alignment / count for count in op.channels)


def _convert_ms(of: NumberType, to: NumberType, profile: Profile) -> float:
    """Of a million values, read in one format and written in the other."""
    return 0.0 if of == to else 1e6 * (_BYTES[of] + _BYTES[to]) / (profile.bandwidth_gb_s * 1e9) * 1e3
