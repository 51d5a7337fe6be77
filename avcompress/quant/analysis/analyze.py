"""Error analysis: which layer of a quantized network costs what, as far as a time budget reaches.

First what one pass tells of every layer, then the network with parts of its quantization, then one layer at a time:
quantized alone, and alone left float. Last the metric itself, layer by layer from the likeliest culprit on.

Source: Qualcomm AIMET's QuantAnalyzer has the same questions; SQNR as in Nagel et al., arXiv:2106.08295.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import onnx
from onnxruntime import InferenceSession

from avcompress.quant.analysis.probe import Power, probe
from avcompress.quant.analysis.restore import PARTS, Part, quantized_layers, restored
from avcompress.spec import Artifact, Batch, LayerPlan, ModelError, Track, untracked
from engines.in_memory import open_model
from validation.drift import decibels
from validation.errors import LayerError, Split

Score = Callable[[onnx.ModelProto], float]
SWEEP_IMAGES = 4


@dataclass
class Budget:
    """Seconds that may be spent; what has begun is finished."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def left(self) -> bool:
        """Whether something more may begin."""
        return self.spent < self.seconds


@dataclass(frozen=True)
class Subject:
    """A quantized network, and what it is measured with.

    Attributes:
        artifact: after `ptq`, with its float reference.
        batches: calibration images.
        score: the metric of a network; higher is better.
    """

    artifact: Artifact
    batches: Iterable[Batch]
    score: Score

    @property
    def layers(self) -> tuple[str, ...]:
        """Every node that reads quantized values, in graph order."""
        return quantized_layers(self.artifact.model, self.artifact.reference)

    def restored(self, layers: Collection[str], parts: Collection[Part] = PARTS) -> onnx.ModelProto:
        """The network with these layers float again."""
        return restored(self.artifact.model, self.artifact.reference, layers, parts)

    @cached_property
    def _float_session(self) -> InferenceSession:
        return open_model(self.artifact.reference)

    def output_db(self, model: onnx.ModelProto, images: int | None = None) -> float:
        """Signal to noise at the network's outputs against the float network, over the first images."""
        pair = [self._float_session, open_model(model)]
        signal = noise = 0.0
        for batch in islice(self.batches, images):
            expected, found = (session.run(None, dict(batch)) for session in pair)
            for right, got in zip(expected, found, strict=True):
                signal += float(np.square(right, dtype=np.float64).sum())
                noise += float(np.square(right.astype(np.float64) - got).sum())
        return decibels(signal, noise)


def analyze(
    subject: Subject, budget: Budget, track: Track = untracked
) -> tuple[tuple[LayerError, ...], tuple[Split, ...]]:
    """Every quantized layer in graph order, and the network with parts of its quantization.

    One pass over every layer and the splits' dB are always measured; what the budget does not reach stays None.
    Raises ModelError for a network that is not quantized, DataError without images.
    """
    artifact = subject.artifact
    if artifact.reference is None or not subject.layers:
        raise ModelError(
            "error analysis: expected a network with quantized layers, got a float one; add `ptq`, or leave fewer "
            "layers float"
        )
    plans = {layer.name: layer for layer in artifact.layers}
    rows = {
        name: _row(plans[name], power)
        for name, power in probe(artifact.model, artifact.reference, subject.batches).items()
    }
    splits = tuple(_splits(subject, budget))
    rows |= _sweep(subject, rows, "alone_db", budget, track)
    rows |= _sweep(subject, rows, "without_db", budget, track)
    rows |= _gains(subject, rows, splits, budget, track)
    return tuple(rows.values()), splits


def _row(plan: LayerPlan, power: Power) -> LayerError:
    own, weights, activations, depth = (decibels(power.signal, noise) for noise in power[1:])
    return LayerError(
        name=plan.name,
        op=plan.op,
        macs=plan.macs,
        own_db=own,
        weights_db=weights,
        activations_db=activations,
        depth_db=depth,
    )


def _splits(subject: Subject, budget: Budget) -> Iterator[Split]:
    """What is lost by weights, and what by activations: tells which repair can help at all."""
    everything = subject.layers
    models: dict[Literal["all", "weights", "activations", "none"], onnx.ModelProto] = {
        "all": subject.artifact.model,
        "weights": subject.restored(everything, PARTS[1:]),
        "activations": subject.restored(everything, PARTS[:1]),
        "none": subject.artifact.reference,
    }
    for part, model in models.items():
        metric = subject.score(model) if budget.left else None
        yield Split(part=part, output_db=subject.output_db(model), metric=metric)


def _sweep(
    subject: Subject,
    rows: Mapping[str, LayerError],
    column: Literal["alone_db", "without_db"],
    budget: Budget,
    track: Track,
) -> dict[str, LayerError]:
    """Measure one layer at a time at the network's output, the worst first, until half of the budget is spent."""
    found: dict[str, LayerError] = {}
    everything = frozenset(subject.layers)
    for row in track(sorted(rows.values(), key=_own_db), len(rows)):
        if budget.spent > budget.seconds / 2:
            break
        back = everything - {row.name} if column == "alone_db" else {row.name}
        value = subject.output_db(subject.restored(back), SWEEP_IMAGES)
        found[row.name] = row.model_copy(update={column: value if np.isfinite(value) else None})
    return found


def _own_db(row: LayerError) -> float:
    return float("inf") if row.own_db is None else row.own_db


def _gains(
    subject: Subject, rows: Mapping[str, LayerError], splits: tuple[Split, ...], budget: Budget, track: Track
) -> dict[str, LayerError]:
    """Give each layer's own part of the metric's loss, from the likeliest culprit on, until the budget is spent."""
    whole = next(split.metric for split in splits if split.part == "all")
    found: dict[str, LayerError] = {}
    for row in track(sorted(rows.values(), key=_promise), len(rows)):
        if whole is None or not budget.left:
            break
        found[row.name] = row.model_copy(update={"gain": subject.score(subject.restored({row.name})) - whole})
    return found


def _promise(row: LayerError) -> float:
    """Smaller for a layer that is likelier to cost: what its restoring leaves, or else what it adds."""
    if row.without_db is not None:
        return -row.without_db
    return 1000 + (_own_db(row) if row.alone_db is None else row.alone_db)
