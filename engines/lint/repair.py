"""Repairs what can be repaired, and says what it did and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from engines.capabilities import Target
from engines.lint import repair_params, repair_placement
from engines.lint.check import lint
from engines.lint.edit import Draft, close_draft, open_draft
from engines.lint.finding import Finding, Repair, Rule

# In this order: what is taken out need not be put on another grid, and only equal grids can be tied.
_STEPS: tuple[tuple[frozenset[Rule], Callable[[Draft], Iterator[Repair]]], ...] = (
    (frozenset({"microsoft_qdq"}), repair_params.use_standard_domain_),
    (frozenset({"int32_bias"}), repair_params.store_biases_in_float_),
    (frozenset({"double_qdq"}), repair_placement.take_out_doubles_),
    (frozenset({"qdq_before_activation", "qdq_inside_activation"}), repair_placement.free_activations_),
    (frozenset({"residual_conv_side"}), repair_placement.free_additions_),
    (frozenset({"zero_point", "uint8", "no_zero_point"}), repair_params.make_symmetric_),
    (frozenset({"scale_shape"}), repair_params.make_scales_scalar_),
    (frozenset({"per_channel_activation"}), repair_params.unfold_scales_),
    (frozenset({"not_int8_through"}), repair_placement.move_to_layers_),
    (frozenset({"concat_scales"}), repair_placement.tie_concats_),
)
_MOST_ROUNDS = 8  # one repair may uncover another


@dataclass(frozen=True)
class Fixed:
    """A repaired model.

    Attributes:
        repairs: what was done, in order.
        remaining: what lint says of the new model.
    """

    model: onnx.ModelProto
    repairs: tuple[Repair, ...]
    remaining: tuple[Finding, ...]


def fix(model: onnx.ModelProto, target: Target, folder: Path | None = None, machine: int | None = None) -> Fixed:
    """Repair a copy of a model for a target; what no finding of `lint` asks for stays as it is.

    Args:
        model: with its functions inlined.
        target: what it shall run on.
        folder: of the file that holds the model's weights, if they are not in it.
        machine: the compute capability of the GPU, as 87, where there is but one.
    """
    repairs: list[Repair] = []
    found = lint(model, target, folder, machine)
    for _ in range(_MOST_ROUNDS):
        wanted = {finding.rule for finding in found if finding.fixable}
        done: list[Repair] = []
        for rules, step in _STEPS:
            if rules & wanted:
                draft = open_draft(model, folder)
                made = [*step(draft)]
                model = close_draft(draft) if made else model
                done += made
        if not done:
            break
        repairs += done
        found = lint(model, target, folder, machine)
    return Fixed(model, tuple(repairs), found)
