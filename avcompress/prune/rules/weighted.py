"""Convolutions: plain, grouped, depthwise, transposed."""

from __future__ import annotations

import numpy as np

from avcompress.onnx_import.operand import Operand
from avcompress.prune.labels import NONE, Labels, expanded, varying
from avcompress.prune.rules.contraction import contract, letters_for
from avcompress.prune.rules.step import Part, Rule, Step, none


def _conv(step: Step) -> tuple[Labels, ...]:
    weight = step.node.required(1)
    if weight.value is None:
        step.stays("computes its weights", step.labels(0), step.labels(1))
        return (none(step.node.x.rank),)
    if _slides_along_channels(step, weight):
        step.sees_fewer(step.labels(0))
        return (step.labels(0),)
    if int(step.node.attribute("group", 1)) > 1:
        return (_with_bias(step, _grouped(step, weight)),)
    return (_with_bias(step, _plain(step, weight)),)


def _slides_along_channels(step: Step, weight: Operand) -> bool:
    """Whether one small kernel runs along the channels and gives as many, as in efficient channel attention."""
    axes = varying(step.labels(0))
    same = step.shape(0) == step.node.x.shape
    return weight.shape[:2] == (1, 1) and same and bool(axes) and min(axes) > 1


def _plain(step: Step, weight: Operand) -> Labels:
    """Every output sees every input: weight (O, C, kernel), transposed (C, O, kernel)."""
    _uniform_input_(step)
    space = weight.rank - 2
    kernel = letters_for(space, "nco")
    before = letters_for(space, f"nco{kernel}")
    after = letters_for(space, f"nco{kernel}{before}")
    channels = "co" if step.node.kind == "ConvTranspose" else "oc"
    return contract(step, (step.node.x, weight), (f"nc{before}", channels + kernel), f"no{after}")


def _uniform_input_(step: Step) -> Labels:
    """Let what lies along other axes than the channels go together; the channels' labels, (C,)."""
    part = step.part(0)
    others = [axis for axis in range(len(part.shape)) if axis != 1]
    return expanded(step.atoms.uniform(part.labels, others, step.name), 1, part.shape[1]).reshape(-1)


def _grouped(step: Step, weight: Operand) -> Labels:
    """Whole groups may go, or the same positions of every group: what leaves more to choose from."""
    groups, transposed = int(step.node.attribute("group", 1)), step.node.kind == "ConvTranspose"
    inputs = _uniform_input_(step).reshape(groups, -1)
    outputs = step.shape(0)[1] // groups
    narrow, wide = sorted((inputs.shape[1], outputs))
    if (narrow == 1 or groups >= wide) and NONE not in inputs:
        group = step.atoms.uniform(inputs, (1,), step.name)
        ours, theirs = (np.broadcast_to(expanded(group, 0, groups), (groups, n)) for n in (inputs.shape[1], outputs))
    else:
        ours = expanded(step.atoms.uniform(inputs, (0,), step.name), 1, inputs.shape[1])
        theirs = step.atoms.fresh((1, outputs))
        step.atoms.unite(step.along(weight, 1), (ours if not transposed else theirs).reshape(-1), step.name)
        ours, theirs = (np.broadcast_to(v, (groups, v.shape[1])) for v in (ours, theirs))
    step.atoms.unite(step.along(weight, 0), (ours if transposed else theirs).reshape(-1), step.name)
    return theirs.reshape(1, -1, *(1,) * (step.node.x.rank - 2))


def _with_bias(step: Step, labels: Labels) -> Labels:
    bias = step.node.optional(2)
    if bias is None:
        return labels
    own = step.part_of(bias)
    shape = step.shape(0)
    ones = (1,) * (len(shape) - 2)
    return step.join(
        [Part(labels, shape), Part(own.labels.reshape(1, -1, *ones), (1, *own.shape, *ones), constant=True)]
    )


RULES: dict[str, Rule] = {"Conv": _conv, "ConvTranspose": _conv}
