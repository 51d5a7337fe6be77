"""Runs every rule over a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from engines.capabilities import Target
from engines.lint import fusion, layers, operators, params, tensors
from engines.lint.finding import SEVERITIES, Finding
from engines.lint.read import read_model
from engines.lint.targets import takes
from engines.lint.view import views


def lint_file(path: Path, target: Target) -> tuple[Finding, ...]:
    """What the target will make of a file, the worst first, then in graph order.

    Raises ModelError in one line for what is no ONNX file.
    """
    return lint(read_model(path), target, path.parent)


def lint(
    model: onnx.ModelProto, target: Target, folder: Path | None = None, machine: int | None = None
) -> tuple[Finding, ...]:
    """What the target will make of a model, the worst first, then in graph order.

    Args:
        model: as a tool left it, its functions inlined; quantized or not.
        target: what it shall run on.
        folder: of the file that holds the model's weights, if they are not in it.
        machine: the compute capability of the GPU, as 87, where there is but one.
    """
    known = takes(target, machine)
    found: dict[Finding, None] = {}
    for index, view in enumerate(views(model, folder)):
        if index == 0:
            found.update(dict.fromkeys(tensors.model_findings(model, view, known)))
        for family in (params, operators, layers, fusion, tensors):
            each = family.findings(view, known)
            # Subgraphs are looked at, and not repaired.
            found.update(dict.fromkeys(f if index == 0 else replace(f, fixable=False) for f in each))
    return tuple(sorted(_once(found), key=lambda finding: SEVERITIES.index(finding.severity)))


def _once(found: dict[Finding, None]) -> list[Finding]:
    """The findings; those that only follow from a refused one of the same node are left out."""
    refused = {finding.where for finding in found if finding.rule in {"zero_point", "uint8"}}
    return [f for f in found if f.rule not in {"pair_mismatch"} or f.where not in refused]
