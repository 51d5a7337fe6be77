"""Moves the activation ranges of a quantized network to new images, without giving up what they hold of old ones.

A range is multiplied by the factor by which its estimate changes when the new images join the old ones: what training
has made of it since it was estimated stays. It becomes no narrower than what it held of the old images, so that none of
their values is clipped that was not before. Tied tensors stay tied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from avcompress.quant.learning.qat_module import tied
from avcompress.quant.observe import observe
from avcompress.quant.params import QMAX, asymmetric, symmetric
from avcompress.recipe import Ptq
from avcompress.spec import Artifact, Batch, ModelError, QuantParams, TensorRange
from calibration.histogram import merge
from calibration.ranges import range_from
from calibration.statistics import WINDOW, Statistics, TensorStatistics, join_figures, union
from engines.onnx_graph import copy
from engines.qdq import QdqSite, qdq_sites, without_qdq


class Reestimated(NamedTuple):
    """The artifact with other scales in the same graph, and the statistics of all images together."""

    artifact: Artifact
    statistics: Statistics


def reestimate(artifact: Artifact, settings: Ptq, old: Iterable[Batch], new: Iterable[Batch]) -> Reestimated:
    """Move the range of every quantized activation of an onnx.ModelProto.

    What is looked at is the network with the weights that it has by now, its activations before they are rounded.

    Args:
        artifact: the quantized network.
        settings: how ranges follow from statistics, as it was quantized.
        old: the images that the ranges were for so far.
        new: those that they are to be for, too.

    Raises ModelError for a network without quantized activations, DataError for the images.
    """
    sites = [site for site in qdq_sites(artifact.model) if not site.constant and site.params is not None]
    if not sites:
        raise ModelError("update: expected a network whose activations are quantized, got none; quantize it by `ptq`")
    known = {site.tensor: site.params for site in sites if site.params is not None}
    network = without_qdq(artifact.model)
    before, added = observe(network, known, old), observe(network, known, new)
    after = _together(before, added)
    params: dict[str, QuantParams] = {}
    for members in _tied(artifact, known):
        seen = [union([each.tensors[name] for name in members]) for each in (before, after)]
        params.update(dict.fromkeys(members, moved(known[members[0]], seen[0], seen[1], settings)))
    done = replace(
        artifact,
        model=_filled(artifact.model, sites, params),
        qparams={**artifact.qparams, **params},
        log=(*artifact.log, _line(known, params)),
    )
    return Reestimated(done, after)


def moved(params: QuantParams, before: TensorStatistics, after: TensorStatistics, settings: Ptq) -> QuantParams:
    """The parameters of one tensor, or of several tied ones, when images join those that they were for.

    Args:
        params: as they are, per tensor.
        before: the values on the images so far.
        after: the values on these and the new ones.
        settings: how a range follows from statistics.
    """
    two_ended = settings.activations == "asymmetric" and settings.format == "int8"
    (scale,), (zero,) = params.scale, params.zero_point
    held = ((zero + 128) * scale, (127 - zero) * scale) if two_ended else (QMAX[params.dtype] * scale,)
    seen = _seen(before, two_ended)
    estimates = [_estimate(each, settings, two_ended) for each in (before, after)]
    ends = tuple(_end(*each) for each in zip(held, seen, *estimates, strict=True))
    if ends == held:
        return params
    values = TensorRange((-ends[0],), (ends[-1],))
    return asymmetric(values) if two_ended else symmetric(values, params.dtype)


_NOTHING = 1e-6
"""Share of the new estimate below which the old one tells no factor to grow by."""


def _end(held: float, seen: float, before: float, after: float) -> float:
    """One end of a range, by its distance from zero: as it is, what is there of the old images, both estimates."""
    grown = held * after / before if before > _NOTHING * after else after or held
    return max(grown, min(held, seen))


def _seen(found: TensorStatistics, two_ended: bool) -> tuple[float, ...]:
    """How far values reach below and above zero, or in either direction."""
    histogram = found.histogram
    return (max(0.0, -histogram.low), max(0.0, histogram.high)) if two_ended else (histogram.amax,)


def _estimate(found: TensorStatistics, settings: Ptq, two_ended: bool) -> tuple[float, ...]:
    """The range by the settings' method, as `_seen` has it; of zeros alone there is none."""
    if found.histogram.amax == 0:
        return (0.0, 0.0) if two_ended else (0.0,)
    values = range_from(found, settings)
    return (max(0.0, -values.low[0]), max(0.0, values.high[0])) if two_ended else (values.high[0],)


def _tied(artifact: Artifact, tensors: Iterable[str]) -> Iterable[list[str]]:
    """The tensors, those that share a scale together."""
    leaders = tied(artifact)
    groups: dict[str, list[str]] = {}
    for tensor in tensors:
        groups.setdefault(leaders.get(tensor, tensor), []).append(tensor)
    return groups.values()


def _together(old: Statistics, new: Statistics) -> Statistics:
    """Of all images; some may be in both, and count twice. The new ones come last, where a moving average ends."""
    tensors = {
        name: TensorStatistics(
            merge(one.histogram, new.tensors[name].histogram),
            np.concatenate([one.extremes, new.tensors[name].extremes])[-WINDOW:],
        )
        for name, one in old.tensors.items()
    }
    return Statistics(
        old.network,
        old.preprocess,
        tuple(sorted((*old.images, *new.images))),
        tensors,
        tuple(sorted({*old.drives, *new.drives})),
        {name: values[-WINDOW:] for name, values in join_figures(old, new).items()},
    )


def _filled(model: onnx.ModelProto, sites: Iterable[QdqSite], params: Mapping[str, QuantParams]) -> onnx.ModelProto:
    """The network with other scales and zero points of its activations."""
    new = copy(model)
    nodes = {node.name: node for node in new.graph.node}
    values: dict[str, float | int] = {}
    for site in sites:
        scale, zero = params[site.tensor].scale[0], params[site.tensor].zero_point[0]
        for node in (nodes[site.quantize], nodes[site.dequantize]):
            values.update(zip(node.input[1:], (scale, zero), strict=False))
    for constant in new.graph.initializer:
        if constant.name in values:
            array = numpy_helper.to_array(constant)
            constant.CopyFrom(numpy_helper.from_array(np.full_like(array, values[constant.name]), constant.name))
    return new


def _line(before: Mapping[str, QuantParams], after: Mapping[str, QuantParams]) -> str:
    """One line: how many ranges grew and shrank, and the one that grew most."""
    growth = {name: after[name].scale[0] / params.scale[0] for name, params in before.items()}
    grew, shrank = sum(each > 1 for each in growth.values()), sum(each < 1 for each in growth.values())
    widest = max(growth, key=growth.__getitem__)
    most = f", {widest!r} most, to {growth[widest]:.2f} times what it was" if grew else ""
    return f"ranges: of {len(growth)} activations {grew} grew and {shrank} shrank with the new images{most}"
