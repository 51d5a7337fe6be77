"""What a target can compute layers in, before anything is measured."""

from __future__ import annotations

from avcompress.spec import Precision
from engines.capabilities import capabilities, on_machine
from engines.profile import Chosen

_ARITHMETIC: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")


def precisions_on(chosen: Chosen) -> tuple[Precision, ...]:
    """What layers can be computed in on a target; "int8 weights" where it takes weights that alone are quantized."""
    takes = capabilities(chosen.capabilities)
    takes = on_machine(takes, chosen.profile.machine) if chosen.profile.machine else takes
    missing = {each for each, first in (("fp8", takes.fp8_from), ("bf16", takes.bf16_from)) if first is None}
    found = [each for each in _ARITHMETIC if each in chosen.profile.precisions and each not in missing]
    return (*found, "int8 weights") if takes.weight_only and "int8" in found else tuple(found)
