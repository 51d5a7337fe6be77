"""What lint says: findings as values, and the names of its rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["refused", "changed", "slower", "note"]
"""refused: no engine; changed: an engine that silently computes other numbers, or float where the file says INT8;
slower: right, but it costs time; note: nothing to do, or only perhaps."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

Rule = Literal[
    # parameters of Q/DQ
    "zero_point",
    "uint8",
    "no_zero_point",
    "integer_type",
    "int32_bias",
    "scale_value",
    "scale_length",
    "scale_dynamic",
    "scale_shape",
    "scale_float16",
    "pair_mismatch",
    "fp8",
    "bf16",
    # weighted layers
    "per_channel_activation",
    "weight_axis",
    "weight_only",
    "activation_only",
    "not_int8_through",
    "conv_transpose",
    "attention_split",
    "fp8_kernel",
    "depthwise",
    "few_channels",
    "float_between_int8",
    # fusion
    "qdq_before_activation",
    "qdq_inside_activation",
    "residual_conv_side",
    "residual_skip_float",
    "concat_scales",
    "concat_partly_float",
    "requantize",
    "double_qdq",
    "float_operator",
    # operators
    "qoperator",
    "dynamic_quantize",
    "microsoft_qdq",
    "unsupported_operator",
    "unknown_operator",
    "nms",
    "topk",
    # tensors and the graph
    "double",
    "not_finite",
    "empty",
    "invalid",
    "opset",
    "mixed_types",
    "dynamic_shape",
    "names",
    "no_qdq",
]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class Finding:
    """One thing that will not go as the file says.

    Attributes:
        rule: which one of RULES.
        severity: what it does to the engine.
        where: the node, or the tensor, that it is about.
        what: what is there.
        why: what the target makes of it.
        fix: what to do.
        fixable: whether `--fix` does that.
    """

    rule: Rule
    severity: Severity
    where: str
    what: str
    why: str
    fix: str
    fixable: bool = False


@dataclass(frozen=True)
class Repair:
    """One thing that `--fix` did.

    Attributes:
        rule: the rule whose finding is gone.
        where: the node or tensor.
        what: what was done.
        difference: how the numbers may differ now; "" if not by a bit.
    """

    rule: Rule
    where: str
    what: str
    difference: str = ""
