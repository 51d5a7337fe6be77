"""Times that are measured on a backend of this machine: each precision's layers, and what mixing precisions adds.

The network is built with all that may be in one precision in it, once for each precision, and timed layer by layer.
Then it is built with precisions mixed by chance, in long runs of neighbours and in short ones. What a network takes
beyond its layers, as a whole and without a profiler, is the rest and the conversions: their times follow from all
networks together by least squares, none of them below zero.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avcompress.recipe import Engine
from avcompress.search.assignment import Assignment
from avcompress.search.groups import OUTSIDE, Layout
from avcompress.search.latency.source import Subject
from avcompress.search.latency.table import Conversion, PrecisionTable, network_structure
from avcompress.spec import Precision, Track, untracked
from engines.layer_times import LayerTimes, Timing
from engines.layer_times.measure import time_layers
from engines.turns import ENGINE, NETWORK, Turns, built, engines_ms, random_inputs
from validation.machine import describe_machine, runtime_versions

_TIMING = Timing(warmup=3, runs=15)
_MILLION = 1e6
Floats = NDArray[np.float64]
Pair = tuple[Precision, Precision]


@dataclass(frozen=True)
class Measured:
    """A backend of this machine.

    Attributes:
        engine: its settings.
        mixed: networks of mixed precisions that are built.
        seconds: that each network is run.
        seed: of the mixing.
    """

    engine: Engine
    mixed: int = 12
    seconds: float = 4.0
    seed: int = 0
    track: Track = untracked

    def table(self, subject: Subject) -> PrecisionTable:
        """Measure; raises EngineError and MissingError where the backend cannot run here, or refuses a network."""
        plain = [uniform(subject, precision) for precision in subject.precisions]
        designs = [*plain, *mixtures(subject, self.mixed, self.seed)]
        with tempfile.TemporaryDirectory() as name:
            folders = [
                built(subject.assigned(design), Path(name) / str(number), self.engine)
                for number, design in self.track(enumerate(designs), len(designs))
            ]
            inputs = random_inputs(subject.model)
            times = [
                time_layers(folder / ENGINE, self.engine, folder / NETWORK, inputs, _TIMING)
                for folder in folders[: len(plain)]
            ]
            places, turns = [folder / ENGINE for folder in folders], Turns(seconds=self.seconds)
            totals = engines_ms(places, self.engine, [inputs] * len(places), turns)
        layers = layers_ms(subject, plain, times, totals)
        others, conversions = fit_conversions(subject, layers, designs, totals)
        return PrecisionTable(
            network=network_structure(subject.model),
            estimate=False,
            machine=describe_machine().cpu,
            backend=self.engine.backend,
            versions=dict(runtime_versions()),
            layers_ms=layers,
            others_ms=others,
            conversions=conversions,
        )


def uniform(subject: Subject, precision: Precision) -> Assignment:
    """Every group in one precision; in FP32 where it may not take it."""
    return {name: precision if precision in own else "fp32" for name, own in subject.choices.items()}


def mixtures(subject: Subject, count: int, seed: int) -> list[Assignment]:
    """Precisions by chance, in runs of neighbours; the same for the same seed."""
    random = np.random.default_rng(seed)
    found: list[Assignment] = []
    for _ in range(count):
        often, now = random.uniform(0.05, 0.6), subject.precisions[int(random.integers(len(subject.precisions)))]
        mixture: dict[str, Precision] = {}
        for name, own in subject.choices.items():
            if now not in own or random.random() < often:
                now = own[int(random.integers(len(own)))]
            mixture[name] = now
        found.append(mixture)
    return found


def layers_ms(
    subject: Subject, designs: Sequence[Assignment], times: Sequence[LayerTimes], totals: Sequence[float]
) -> dict[str, dict[Precision, float]]:
    """What each layer takes in each precision; one that is fused into another takes nothing.

    The profiler slows a network down: a layer has its share of what the network takes without.
    """
    found: dict[str, dict[Precision, float]] = {layer: {} for layer in subject.layout.group_of}
    for precision, design, own, total in zip(subject.precisions, designs, times, totals, strict=False):
        scale = total / sum(layer.median_ms for layer in own.layers)
        taken = {layer.layer: layer.median_ms * min(scale, 1.0) for layer in own.layers if layer.own}
        for layer, group in subject.layout.group_of.items():
            if design[group] == precision:
                found[layer][precision] = taken.get(layer, 0.0)
    return found


def fit_conversions(
    subject: Subject,
    layers: Mapping[str, Mapping[Precision, float]],
    designs: Sequence[Assignment],
    totals: Sequence[float],
) -> tuple[float, tuple[Conversion, ...]]:
    """The time of what has no weight, and of each conversion: a call, and every million values."""
    from scipy.optimize import nnls

    pairs = [(of, to) for of in subject.precisions for to in subject.precisions if of != to]
    counted = np.array([_counted(subject.layout, design, pairs) for design in designs])
    own = [sum(layers[layer][design[group]] for layer, group in subject.layout.group_of.items()) for design in designs]
    rest = np.maximum(np.array(totals) - np.array(own), 0.0)
    found, _ = nnls(np.column_stack([np.ones(len(designs)), counted]), rest)
    calls, millions = found[1 : 1 + len(pairs)], found[1 + len(pairs) :]
    return float(found[0]), tuple(
        Conversion(of=of, to=to, call_ms=float(call), million_ms=float(million))
        for (of, to), call, million in zip(pairs, calls, millions, strict=True)
    )


def _counted(layout: Layout, design: Assignment, pairs: Sequence[Pair]) -> Floats:
    """Conversions of each pair in a network, then their values in millions."""
    calls, values = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
    for passage in layout.passages:
        ends = [("fp32" if name == OUTSIDE else design[name]) for name in (passage.source, passage.target)]
        pair: Pair = ends[0], ends[1]
        if pair in calls:
            calls[pair] += 1
            values[pair] += passage.values / _MILLION
    return np.array([*calls.values(), *values.values()])
