"""Says before any build what a target will make of a quantized ONNX model, and repairs what can be repaired."""

from engines.capabilities import TARGETS, Target
from engines.lint.check import lint, lint_file
from engines.lint.finding import RULES, SEVERITIES, Finding, Repair, Rule, Severity
from engines.lint.read import read_model, to_bytes
from engines.lint.repair import Fixed, fix
from engines.lint.targets import takes

__all__ = [
    "RULES",
    "SEVERITIES",
    "TARGETS",
    "Finding",
    "Fixed",
    "Repair",
    "Rule",
    "Severity",
    "Target",
    "fix",
    "lint",
    "lint_file",
    "read_model",
    "takes",
    "to_bytes",
]
