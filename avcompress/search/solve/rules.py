"""The choice that a target's own rules make, without a measurement: what runs faster there and is known to be safe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from avcompress.search.assignment import Assignment
from avcompress.search.groups import Layout
from avcompress.spec import LayerPlan, Precision
from engines.capabilities import capabilities, on_machine
from engines.profile import Chosen

_COMPUTED: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")


def precisions_on(chosen: Chosen) -> tuple[Precision, ...]:
    """What layers can be computed in on a target; "int8 weights" where it takes weights that alone are quantized."""
    takes = capabilities(chosen.capabilities)
    takes = on_machine(takes, chosen.profile.machine) if chosen.profile.machine else takes
    missing = {each for each, first in (("fp8", takes.fp8_from), ("bf16", takes.bf16_from)) if first is None}
    found = [each for each in _COMPUTED if each in chosen.profile.precisions and each not in missing]
    return (*found, "int8 weights") if takes.weight_only and "int8" in found else tuple(found)


def assign_by_rules(
    layout: Layout,
    choices: Mapping[str, Sequence[Precision]],
    planned: Sequence[LayerPlan],
    quantized: Precision = "int8",
    otherwise: Precision = "fp32",
) -> Assignment:
    """The precision that the placement's rules give: quantized where they quantize a whole group, else another.

    Args:
        layout: of the network.
        choices: what each group may take.
        planned: by `quant.placement.policy.place` for the target, as the recipe's `keep_float` has it.
        quantized: for groups of which every layer is planned as INT8.
        otherwise: for all others, and where a group may not take `quantized`.
    """
    int8 = {layer.name for layer in planned if layer.precision == "int8"}
    return {
        group.name: quantized if quantized in choices[group.name] and int8.issuperset(group.layers) else otherwise
        for group in layout.groups
    }
